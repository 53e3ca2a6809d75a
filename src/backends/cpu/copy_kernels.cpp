// Kernels that move bytes: concatenation, copies of strided views, look-ups, upsampling. Any dtype.
#include <algorithm>
#include <array>
#include <cstring>

#include "backends/cpu/kernels.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_rows.h"
#include "backends/function_kernel.h"
#include "core/threads.h"
#include "ops/layout.h"
#include "ops/lookup.h"

namespace rondo::cpu {
namespace {

Refusal refuse_gaps(const KernelRequest& request) {
  for (const KernelInput& input : request.inputs) {
    if (!has_dense_rows(input.prototype)) return "takes dense rows only";
  }
  return std::nullopt;
}

/// Copies every row of `source` to where `target(row)` says.
template <typename Target>
void copy_rows(int threads, const Tensor& source, const Target& target) {
  const RowMap rows(source);
  const std::size_t bytes = static_cast<std::size_t>(source.shape().back()) * dtype_size(source.dtype());
  const auto grain = static_cast<std::int64_t>(65536 / std::max<std::size_t>(1, bytes) + 1);
  parallel_ranges(threads, source.shape().rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) std::memcpy(target(r), rows.row<const std::byte>(r), bytes);
  });
}

/// Reshape and slice are views; this runs where strides leave none.
std::unique_ptr<Kernel> make_copy(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const std::size_t bytes =
        static_cast<std::size_t>(args.inputs[0].shape().back()) * dtype_size(args.inputs[0].dtype());
    auto* target = args.outputs[0].as<std::byte>();
    copy_rows(args.threads, args.inputs[0],
              [=](std::int64_t r) { return target + static_cast<std::size_t>(r) * bytes; });
  });
}

std::unique_ptr<Kernel> make_concat(const KernelRequest& request) {
  const std::size_t axis = static_cast<const ConcatOp&>(request.op).axis();
  return make_kernel([axis](const KernelArgs& args) {
    const Tensor& output = args.outputs[0];
    std::int64_t begin = 0;
    for (const Tensor& input : args.inputs) {
      const std::int64_t end = begin + input.shape()[axis];
      const RowMap target(output.sliced(axis, begin, end));
      copy_rows(args.threads, input, [&](std::int64_t r) { return target.row<std::byte>(r); });
      begin = end;
    }
  });
}

Refusal supports_embedding(const KernelRequest& request) {
  const DType table = request.inputs[1].prototype.dtype();
  const DType output = request.outputs[0].dtype();
  for (const DType dtype : {table, output}) {
    if (dtype != DType::f32 && dtype != DType::bf16) return "takes float32 and bfloat16 only";
  }
  if (!request.inputs[0].prototype.is_dense()) return "takes dense ids only";
  return refuse_gaps(request);
}

std::unique_ptr<Kernel> make_embedding(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const Tensor& ids = args.inputs[0];
    const Tensor& table = args.inputs[1];
    const std::int64_t last = table.shape()[0] - 1;
    for (std::int64_t i = 0; i < ids.elements(); ++i) {
      const std::int64_t id = std::clamp<std::int64_t>(ids.as<std::int32_t>()[i], 0, last);
      const RowMap source(table.sliced(0, id, id + 1));
      const RowMap target(args.outputs[0].reshaped({ids.elements(), table.shape()[1]}).sliced(0, i, i + 1));
      cast_rows(source, target, {0, 1, table.shape()[1]});
    }
  });
}

std::unique_ptr<Kernel> make_select_row(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const Tensor& x = args.inputs[0];
    const RowMap rows(x);
    const std::size_t bytes = static_cast<std::size_t>(x.shape()[2]) * dtype_size(x.dtype());
    for (std::int64_t b = 0; b < x.shape()[0]; ++b) {
      const std::int64_t row = std::clamp<std::int64_t>(args.inputs[1].as<std::int32_t>()[b], 0, x.shape()[1] - 1);
      std::memcpy(args.outputs[0].as<std::byte>() + static_cast<std::size_t>(b) * bytes,
                  rows.row<const std::byte>(b * x.shape()[1] + row), bytes);
    }
  });
}

std::unique_ptr<Kernel> make_upsample(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const Tensor& x = args.inputs[0];
    const Shape& y = args.outputs[0].shape();
    const RowMap source(x);
    const std::size_t bytes = static_cast<std::size_t>(y[3]) * dtype_size(x.dtype());
    auto* target = args.outputs[0].as<std::byte>();
    parallel_ranges(args.threads, y[0] * y[1], 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) {
        const std::int64_t source_line = line / y[1] * x.shape()[1] + line % y[1] / 2;
        for (std::int64_t ox = 0; ox < y[2]; ++ox) {
          std::memcpy(target + static_cast<std::size_t>(line * y[2] + ox) * bytes,
                      source.row<const std::byte>(source_line * x.shape()[2] + ox / 2), bytes);
        }
      }
    });
  });
}

Refusal supports_position_bias(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense() || request.inputs[0].prototype.dtype() != DType::f32) {
    return "takes a dense float32 table only";
  }
  return std::nullopt;
}

std::unique_ptr<Kernel> make_position_bias(const KernelRequest& request) {
  // The bias depends on key - query only: 2S - 1 buckets, looked up once.
  const auto& op = static_cast<const RelativePositionBiasOp&>(request.op);
  const std::int64_t length = request.outputs[0].shape()[2];
  std::vector<std::int64_t> buckets;
  for (std::int64_t distance = 1 - length; distance < length; ++distance) {
    buckets.push_back(t5_bucket(distance, request.inputs[0].prototype.shape()[0], op.max_distance()));
  }
  return make_kernel([buckets = std::move(buckets), length](const KernelArgs& args) {
    const float* table = args.inputs[0].as<float>();
    const std::int64_t heads = args.inputs[0].shape()[1];
    float* target = args.outputs[0].as<float>();
    parallel_ranges(args.threads, heads * length, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t h = row / length;
        const std::int64_t q = row % length;
        for (std::int64_t k = 0; k < length; ++k)
          target[row * length + k] = table[buckets[k - q + length - 1] * heads + h];
      }
    });
  });
}

constexpr std::array kEntries{
    KernelEntry{"reshape", "copy", false, refuse_gaps, make_copy},
    KernelEntry{"slice", "copy", false, refuse_gaps, make_copy},
    KernelEntry{"concat", "copy", false, refuse_gaps, make_concat},
    KernelEntry{"embedding", "copy", false, supports_embedding, make_embedding},
    KernelEntry{"select_row", "copy", false, refuse_gaps, make_select_row},
    KernelEntry{"upsample_nearest", "copy", false, refuse_gaps, make_upsample},
    KernelEntry{"relative_position_bias", "lookup", false, supports_position_bias, make_position_bias},
};

}  // namespace

std::span<const KernelEntry> copy_kernels() { return kEntries; }

}  // namespace rondo::cpu
