// Kernels of parallel graphs: packing heads, posting and awaiting messages, merging partial attentions.
#include <array>
#include <cstring>

#include "attention/merge_attention_op.h"
#include "attention/merge_states.h"
#include "backends/cpu/kernel_checks.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/row_map.h"
#include "backends/function_kernel.h"
#include "core/threads.h"
#include "ops/exchange.h"
#include "parallel/collective_run.h"

namespace rondo::cpu {
namespace {

CollectiveRun& collectives_of(const KernelArgs& args) {
  if (args.collectives == nullptr)
    throw Unsupported("exchange: this run has no process groups; the graph was made for several ranks");
  return *args.collectives;
}

Refusal refuse_gaps(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense() || !request.outputs[0].is_dense()) return "takes dense tensors only";
  return std::nullopt;
}

Refusal refuse_gaps_of_input(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes a dense input only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_exchange(const KernelRequest& request) {
  const ExchangePlan& plan = static_cast<const ExchangeOp&>(request.op).plan();
  return make_kernel([&plan](const KernelArgs& args) {
    const Tensor& x = args.inputs[0];
    Tensor& y = args.outputs[0];
    const std::size_t element_bytes = dtype_size(x.dtype());
    collectives_of(args).start(plan, {x.as<std::byte>(), x.bytes()}, {y.as<std::byte>(), y.bytes()}, element_bytes);
    for (const ExchangePlan::Copy& copy : plan.copies) {
      std::memcpy(y.as<std::byte>() + static_cast<std::size_t>(copy.to) * element_bytes,
                  x.as<std::byte>() + static_cast<std::size_t>(copy.from) * element_bytes,
                  static_cast<std::size_t>(copy.elements) * element_bytes);
    }
  });
}

std::unique_ptr<Kernel> make_wait(const KernelRequest& request) {
  return make_kernel([slot = static_cast<const WaitOp&>(request.op).slot()](const KernelArgs& args) {
    collectives_of(args).wait(slot);
    const Tensor& received = args.inputs[0];
    Tensor& output = args.outputs[0];
    if (output.data() != received.data()) std::memcpy(output.data(), received.data(), received.bytes());
  });
}

/// A token of a block, and where in the packed buffer it begins (in rows).
struct PackedToken {
  std::int64_t row;  // of its first head, in [B, S, H]
  std::int64_t heads_begin;
  std::int64_t heads;
  std::int64_t packed_row;
};

std::vector<PackedToken> packed_tokens(std::span<const HeadBlock> blocks, const Shape& shape) {
  std::vector<PackedToken> tokens;
  std::int64_t packed = 0;
  for (const HeadBlock& b : blocks) {
    const std::int64_t heads = b.heads.end - b.heads.begin;
    for (std::int64_t t = b.tokens.begin; t < b.tokens.end; ++t, packed += heads)
      tokens.push_back({(b.batch * shape[1] + t) * shape[2], b.heads.begin, heads, packed});
  }
  return tokens;
}

/// Tokens a thread takes at least.
constexpr std::int64_t kTokenGrain = 16;

Refusal supports_pack(const KernelRequest& request) {
  for (const KernelInput& input : request.inputs) {
    if (!has_dense_rows(input.prototype)) return "takes dense rows only";
  }
  return std::nullopt;
}

std::unique_ptr<Kernel> make_pack(const KernelRequest& request) {
  const auto& op = static_cast<const PackHeadsOp&>(request.op);
  std::vector<PackedToken> tokens = packed_tokens(op.blocks(), request.inputs[0].prototype.shape());
  return make_kernel([tokens = std::move(tokens), repeats = op.repeats()](const KernelArgs& args) {
    std::size_t width = 0;
    for (const Tensor& input : args.inputs)
      width += static_cast<std::size_t>(input.shape()[3]) * dtype_size(input.dtype());
    auto* const packed = args.outputs[0].as<std::byte>();
    std::size_t before = 0;
    for (const Tensor& input : args.inputs) {
      const RowMap rows(input);
      const std::size_t bytes = static_cast<std::size_t>(input.shape()[3]) * dtype_size(input.dtype());
      parallel_ranges(args.threads, static_cast<std::int64_t>(tokens.size()), kTokenGrain,
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t i = begin; i < end; ++i) {
                          const PackedToken& t = tokens[static_cast<std::size_t>(i)];
                          for (std::int64_t h = 0; h < t.heads; ++h) {
                            std::memcpy(packed + static_cast<std::size_t>(t.packed_row + h) * width + before,
                                        rows.row<const std::byte>(t.row + (t.heads_begin + h) / repeats), bytes);
                          }
                        }
                      });
      before += bytes;
    }
  });
}

std::unique_ptr<Kernel> make_unpack(const KernelRequest& request) {
  const auto& op = static_cast<const UnpackHeadsOp&>(request.op);
  std::vector<PackedToken> tokens = packed_tokens(op.blocks(), request.outputs[0].shape());
  return make_kernel([tokens = std::move(tokens)](const KernelArgs& args) {
    const Tensor& output = args.outputs[0];
    const RowMap rows(output);
    const std::size_t bytes = static_cast<std::size_t>(output.shape()[3]) * dtype_size(output.dtype());
    const auto* const packed = args.inputs[0].as<const std::byte>();
    parallel_ranges(args.threads, static_cast<std::int64_t>(tokens.size()), kTokenGrain,
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        const PackedToken& t = tokens[static_cast<std::size_t>(i)];
                        for (std::int64_t h = 0; h < t.heads; ++h) {
                          std::memcpy(rows.row<std::byte>(t.row + t.heads_begin + h),
                                      packed + static_cast<std::size_t>(t.packed_row + h) * bytes, bytes);
                        }
                      }
                    });
  });
}

std::unique_ptr<Kernel> make_merge(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    merge_states({args.inputs[0], args.inputs[1]}, {args.inputs[2], args.inputs[3]}, {args.outputs[0], args.outputs[1]},
                 args.threads);
  });
}

Refusal supports_merge(const KernelRequest& request) {
  for (const KernelInput& input : request.inputs) {
    if (!has_dense_rows(input.prototype)) return "takes dense rows only";
  }
  if (!is_simd_dtype(request.outputs[0].dtype())) return "gives float32, bfloat16 and float16 only";
  return std::nullopt;
}

constexpr std::array kEntries{
    KernelEntry{"exchange", "messages", false, refuse_gaps, make_exchange},
    KernelEntry{"wait", "messages", false, refuse_gaps, make_wait},
    KernelEntry{"pack_heads", "rows", false, supports_pack, make_pack},
    KernelEntry{"unpack_heads", "rows", false, refuse_gaps_of_input, make_unpack},
    KernelEntry{"merge_attention", "rows", false, supports_merge, make_merge},
};

}  // namespace

std::span<const KernelEntry> exchange_kernels() { return kEntries; }

}  // namespace rondo::cpu
