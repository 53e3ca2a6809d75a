#include "backends/cpu/flash_chunks.h"

#include <fmt/format.h>

#include <algorithm>

namespace rondo::cpu {
namespace {

std::byte* address(const Tensor& tensor, std::int64_t batch, std::int64_t token, std::int64_t head) {
  const Shape& strides = tensor.strides();
  const std::int64_t offset = batch * strides[0] + token * strides[1] + head * strides[2];
  return const_cast<std::byte*>(tensor.as<std::byte>()) +
         offset * static_cast<std::int64_t>(dtype_size(tensor.dtype()));
}

}  // namespace

FlashHeads flash_heads(const AttentionCall& call, const AttentionSequence& s, std::int64_t key_head) {
  FlashHeads heads{};
  heads.group = call.query.shape()[2] / call.key.shape()[2];
  const std::int64_t first_head = key_head * heads.group;
  heads.dtype = call.query.dtype();
  heads.output_dtype = call.output.dtype();
  heads.query = address(call.query, s.batch, s.query_begin, first_head);
  heads.key = address(call.key, s.batch, s.key_begin, key_head);
  heads.value = address(call.value, s.batch, s.key_begin, key_head);
  heads.output = address(call.output, s.batch, s.query_begin, first_head);
  heads.query_stride = call.query.strides()[1];
  heads.key_stride = call.key.strides()[1];
  heads.value_stride = call.value.strides()[1];
  heads.output_stride = call.output.strides()[1];
  heads.query_head_stride = call.query.strides()[2];
  heads.output_head_stride = call.output.strides()[2];
  if (call.lse.defined()) {
    const Shape& strides = call.lse.strides();
    heads.lse = const_cast<float*>(call.lse.as<float>()) + s.batch * strides[0] + first_head * strides[1] +
                s.query_begin * strides[2];
    heads.lse_head_stride = strides[1];
    heads.lse_stride = strides[2];
  }
  if (call.mask.defined()) {
    const auto stride = [&](std::size_t axis) { return call.mask.shape()[axis] == 1 ? 0 : call.mask.strides()[axis]; };
    heads.mask = call.mask.as<std::byte>() + (s.batch * stride(0) + first_head * stride(1)) *
                                                 static_cast<std::int64_t>(dtype_size(call.mask.dtype()));
    heads.mask_dtype = call.mask.dtype();
    heads.mask_head_stride = stride(1);
    heads.mask_query_stride = stride(2);
  }
  heads.queries = s.queries;
  heads.keys = s.keys;
  heads.head_dim = call.query.shape()[3];
  heads.value_dim = call.value.shape()[3];
  heads.scale = call.scale;
  heads.causal = call.causal;
  return heads;
}

std::vector<FlashChunk> cut_chunks(const AttentionCall& call, std::int64_t size, std::int64_t most, bool exactly) {
  const std::int64_t key_heads = call.key.shape()[2];
  const std::int64_t group = call.query.shape()[2] / key_heads;
  const auto blocks_of = [&](const AttentionSequence& s) { return (s.queries + size - 1) / size * group; };
  std::int64_t blocks = 0;
  for (const AttentionSequence& s : call.sequences) blocks += blocks_of(s) * key_heads;
  if (!exactly) {
    // Fewer blocks a chunk where chunks would be too few for the threads, but whole heads where there are enough of
    // them: each chunk packs its keys and values anew.
    const auto units = static_cast<std::int64_t>(call.sequences.size()) * key_heads;
    const std::int64_t spread = blocks / (std::int64_t{4} * call.threads);
    const std::int64_t whole = units >= call.threads ? blocks / std::max<std::int64_t>(1, units) : 1;
    most = std::clamp<std::int64_t>(std::max(spread, whole), 1, most);
  }
  std::vector<FlashChunk> chunks;
  for (const AttentionSequence& s : call.sequences) {
    const std::int64_t count = blocks_of(s);
    const std::int64_t parts = (count + most - 1) / most;
    for (std::int64_t head = 0; head < key_heads; ++head) {
      for (std::int64_t part = 0; part < parts; ++part)
        chunks.push_back({&s, head, count * part / parts, count * (part + 1) / parts});
    }
  }
  return chunks;
}

AttentionRefusal refuse_wide_heads(const AttentionProblem& problem, std::int64_t widest) {
  if (problem.head_dim > widest || problem.value_dim > widest) return fmt::format("takes head dims up to {}", widest);
  return std::nullopt;
}

}  // namespace rondo::cpu
