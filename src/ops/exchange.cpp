#include "ops/exchange.h"

#include <algorithm>

namespace rondo {
namespace {

std::string describe(std::span<const HeadBlock> blocks) {
  std::string text = fmt::format("{} blocks:", blocks.size());
  for (const HeadBlock& b : blocks)
    text += fmt::format(" {}:{}-{}:{}-{}", b.batch, b.tokens.begin, b.tokens.end, b.heads.begin, b.heads.end);
  return text;
}

std::int64_t rows_of(std::span<const HeadBlock> blocks) {
  std::int64_t rows = 0;
  for (const HeadBlock& b : blocks) rows += (b.tokens.end - b.tokens.begin) * (b.heads.end - b.heads.begin);
  return rows;
}

bool lies_within(const ElementRange& range, std::int64_t count) {
  return range.begin >= 0 && range.begin <= range.end && range.end <= count;
}

/// Whether all blocks lie within [B, S, H, ..], heads taken `repeats` times.
bool fit(std::span<const HeadBlock> blocks, const Shape& shape, std::int64_t repeats) {
  return std::all_of(blocks.begin(), blocks.end(), [&](const HeadBlock& b) {
    return b.batch >= 0 && b.batch < shape[0] && lies_within(b.tokens, shape[1]) &&
           lies_within(b.heads, shape[2] * repeats);
  });
}

/// Calls visit(row) for every row of the blocks, in their order: the index of [B, S, H].
template <typename Visit>
void for_rows(std::span<const HeadBlock> blocks, const Shape& shape, std::int64_t repeats, const Visit& visit) {
  for (const HeadBlock& b : blocks) {
    for (std::int64_t t = b.tokens.begin; t < b.tokens.end; ++t) {
      for (std::int64_t h = b.heads.begin; h < b.heads.end; ++h)
        visit((b.batch * shape[1] + t) * shape[2] + h / repeats);
    }
  }
}

}  // namespace

std::string ExchangeOp::attributes() const {
  std::int64_t sent = 0;
  for (const ExchangePlan::Message& message : plan_.sends) sent += message.range.end - message.range.begin;
  return fmt::format("{} slot={} sends {} elements", plan_.purpose, plan_.slot, sent);
}

std::vector<TensorType> ExchangeOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check(inputs[0].dtype == output_.dtype, "{} cannot become {}: the dtypes differ", inputs[0].to_string(),
        output_.to_string());
  const std::int64_t source = inputs[0].shape.elements();
  const std::int64_t target = output_.shape.elements();
  for (const ExchangePlan::Message& m : plan_.sends) {
    check(lies_within(m.range, source), "sends [{}, {}) of {} elements", m.range.begin, m.range.end, source);
  }
  for (const ExchangePlan::Message& m : plan_.receives) {
    check(lies_within(m.range, target), "receives [{}, {}) of {} elements", m.range.begin, m.range.end, target);
  }
  for (const ExchangePlan::Copy& c : plan_.copies) {
    check(lies_within({c.from, c.from + c.elements}, source) && lies_within({c.to, c.to + c.elements}, target),
          "copies {} elements from {} of {} to {} of {}", c.elements, c.from, source, c.to, target);
  }
  return {output_};
}

void ExchangeOp::reference(std::span<const RefTensor> /*inputs*/, std::span<RefTensor> /*outputs*/) const {
  throw Unsupported(fmt::format("{}: {}: what other ranks send has no reference on one", name(), plan_.purpose));
}

std::vector<TensorType> WaitOp::infer(std::span<const TensorType> inputs) const {
  check(!inputs.empty(), "takes what is received");
  return {inputs[0]};
}

void WaitOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  outputs[0].values = inputs[0].values;
}

std::string PackHeadsOp::attributes() const { return fmt::format("repeats={} {}", repeats_, describe(blocks_)); }

std::vector<TensorType> PackHeadsOp::infer(std::span<const TensorType> inputs) const {
  check(!inputs.empty(), "takes at least one input");
  std::int64_t width = 0;
  for (const TensorType& input : inputs) {
    const Shape& s = input.shape;
    const Shape& first = inputs[0].shape;
    check(s.rank() == 4 && s[0] == first[0] && s[1] == first[1] && s[2] == first[2] && input.dtype == inputs[0].dtype,
          "{} and {} do not fit; allowed are [B, S, H, D] alike but for D", inputs[0].to_string(), input.to_string());
    width += s[3];
  }
  check(fit(blocks_, inputs[0].shape, repeats_), "{} lie outside {}", describe(blocks_), inputs[0].to_string());
  TensorType result = inputs[0];
  result.shape = {rows_of(blocks_) * width};
  return {result};
}

void PackHeadsOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  auto target = outputs[0].values.begin();
  for_rows(blocks_, inputs[0].shape, repeats_, [&](std::int64_t row) {
    for (const RefTensor& input : inputs)
      target = std::copy_n(input.values.begin() + row * input.shape[3], input.shape[3], target);
  });
}

std::string UnpackHeadsOp::attributes() const { return fmt::format("{} {}", shape_.to_string(), describe(blocks_)); }

std::vector<TensorType> UnpackHeadsOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check(shape_.rank() == 4 && fit(blocks_, shape_, 1) && rows_of(blocks_) == shape_.rows() &&
            inputs[0].shape.elements() == shape_.elements(),
        "{} and {} do not cover {}", inputs[0].to_string(), describe(blocks_), shape_.to_string());
  TensorType result = inputs[0];
  result.shape = shape_;
  return {result};
}

void UnpackHeadsOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  auto source = inputs[0].values.begin();
  for_rows(blocks_, shape_, 1, [&](std::int64_t row) {
    std::copy_n(source, shape_[3], outputs[0].values.begin() + row * shape_[3]);
    source += shape_[3];
  });
}

}  // namespace rondo
