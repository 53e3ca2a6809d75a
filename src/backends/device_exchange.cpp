// Parallel graphs' kernels on devices: packing heads, and messages from device to device.
#include <algorithm>
#include <array>

#include "backends/execution_device.h"
#include "backends/function_kernel.h"
#include "backends/generic_kernels.h"
#include "ops/exchange.h"
#include "parallel/collective_run.h"
#include "rondo/error.h"

namespace rondo {
namespace {

void copy(const KernelArgs& args, const Tensor& from, const Tensor& to) {
  if (from.elements() > 0) args.device->copy(from, to, *args.stream);
}

std::span<std::byte> bytes_of(const Tensor& tensor) {
  Tensor writable = tensor;
  return {writable.as<std::byte>(), tensor.bytes()};
}

CollectiveRun& collectives_of(const KernelArgs& args) {
  if (args.collectives == nullptr)
    throw Unsupported("exchange: this run has no process groups; the graph was made for several ranks");
  return *args.collectives;
}

/// Elements are copied as what they are.
Refusal refuse_dtype(const KernelRequest& request) {
  const bool is_bf16 = request.outputs[0].dtype() == DType::bf16;
  if (is_bf16 && !request.device->runtime().has_bf16()) return "the device has no bfloat16";
  return std::nullopt;
}

Refusal supports_exchange(const KernelRequest& request) {
  if (auto refusal = refuse_dtype(request)) return refusal;
  if (auto refusal = request.device->runtime().refuse_messages()) return refusal;
  if (!request.inputs[0].prototype.is_dense() || !request.outputs[0].is_dense()) return "takes dense tensors only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_exchange(const KernelRequest& request) {
  const ExchangePlan& plan = static_cast<const ExchangeOp&>(request.op).plan();
  return make_kernel([&plan](const KernelArgs& args) {
    const Tensor& x = args.inputs[0];
    const Tensor& y = args.outputs[0];
    collectives_of(args).start_on_device(plan, bytes_of(x), bytes_of(y), dtype_size(x.dtype()), args.device->runtime(),
                                         *args.stream);
    const Tensor from = x.reshaped({x.elements()});
    const Tensor to = y.reshaped({y.elements()});
    for (const ExchangePlan::Copy& c : plan.copies)
      copy(args, from.sliced(0, c.from, c.from + c.elements), to.sliced(0, c.to, c.to + c.elements));
  });
}

std::unique_ptr<Kernel> make_wait(const KernelRequest& request) {
  return make_kernel([slot = static_cast<const WaitOp&>(request.op).slot()](const KernelArgs& args) {
    collectives_of(args).wait_on_device(slot, *args.stream);
    if (args.outputs[0].data() != args.inputs[0].data()) copy(args, args.inputs[0], args.outputs[0]);
  });
}

std::int64_t count(const ElementRange& range) { return range.end - range.begin; }
bool is_empty(const HeadBlock& block) { return count(block.tokens) == 0 || count(block.heads) == 0; }

/// The block's rows of x [B, S, H, D], of whose heads each is `repeats` of the block's: pieces [tokens, heads, D], one
/// behind the other.
std::vector<Tensor> pieces_of(const Tensor& x, const HeadBlock& block, std::int64_t repeats) {
  const Tensor tokens = x.sliced(0, block.batch, block.batch + 1).sliced(1, block.tokens.begin, block.tokens.end);
  const auto piece = [&](std::int64_t first, std::int64_t heads, std::int64_t stride) {
    const Shape& strides = tokens.strides();
    return tokens.sliced(2, first, first + 1)
        .restrided({count(block.tokens), heads, x.shape()[3]}, {strides[1], stride, strides[3]});
  };
  if (repeats == 1) return {piece(block.heads.begin, count(block.heads), tokens.strides()[2])};
  std::vector<Tensor> pieces;
  for (std::int64_t head = block.heads.begin; head < block.heads.end;) {
    const std::int64_t end = std::min(block.heads.end, (head / repeats + 1) * repeats);
    pieces.push_back(piece(head / repeats, end - head, 0));
    head = end;
  }
  return pieces;
}

/// Rows [tokens, heads, width] of the packed buffer, whose first is the `row`-th.
Tensor packed_rows(const Tensor& packed, std::int64_t row, const HeadBlock& block, std::int64_t width) {
  const std::int64_t rows = count(block.tokens) * count(block.heads);
  return packed.sliced(0, row * width, (row + rows) * width).reshaped({count(block.tokens), count(block.heads), width});
}

std::unique_ptr<Kernel> make_pack(const KernelRequest& request) {
  const auto& op = static_cast<const PackHeadsOp&>(request.op);
  return make_kernel([blocks = op.blocks(), repeats = op.repeats()](const KernelArgs& args) {
    std::int64_t width = 0;
    for (const Tensor& input : args.inputs) width += input.shape()[3];
    std::int64_t row = 0;
    for (const HeadBlock& block : blocks) {
      if (is_empty(block)) continue;
      const Tensor packed = packed_rows(args.outputs[0], row, block, width);
      row += count(block.tokens) * count(block.heads);
      std::int64_t before = 0;
      for (const Tensor& input : args.inputs) {
        const Tensor part = packed.sliced(2, before, before + input.shape()[3]);
        before += input.shape()[3];
        std::int64_t head = 0;
        for (const Tensor& piece : pieces_of(input, block, repeats)) {
          copy(args, piece, part.sliced(1, head, head + piece.shape()[1]));
          head += piece.shape()[1];
        }
      }
    }
  });
}

std::unique_ptr<Kernel> make_unpack(const KernelRequest& request) {
  const auto& op = static_cast<const UnpackHeadsOp&>(request.op);
  return make_kernel([blocks = op.blocks()](const KernelArgs& args) {
    const Tensor& y = args.outputs[0];
    std::int64_t row = 0;
    for (const HeadBlock& block : blocks) {
      if (is_empty(block)) continue;
      const Tensor packed = packed_rows(args.inputs[0], row, block, y.shape()[3]);
      row += count(block.tokens) * count(block.heads);
      copy(args, packed, pieces_of(y, block, 1).front());
    }
  });
}

Refusal supports_unpack(const KernelRequest& request) {
  if (auto refusal = refuse_dtype(request)) return refusal;
  if (!request.inputs[0].prototype.is_dense()) return "takes a dense input only";
  return std::nullopt;
}

constexpr std::array kEntries{
    KernelEntry{"exchange", "messages", false, supports_exchange, make_exchange},
    KernelEntry{"wait", "messages", false, supports_exchange, make_wait},
    KernelEntry{"pack_heads", "copies", false, refuse_dtype, make_pack},
    KernelEntry{"unpack_heads", "copies", false, supports_unpack, make_unpack},
};

}  // namespace

std::span<const KernelEntry> device_exchange_kernels() { return kEntries; }

}  // namespace rondo
