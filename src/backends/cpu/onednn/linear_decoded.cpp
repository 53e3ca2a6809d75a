// Linears whose weights stay in 8 or 4 bits in memory, of which a tile at a time becomes floats in the cache and is
// multiplied as such. w8a16 and w4a16 are made for memory: a quarter or an eighth of float32's, a half or a quarter of
// bfloat16's. fp8 gives on a CPU what it gives on a GPU: inputs are rounded to e4m3 as well, which bfloat16 holds
// exactly, and sums get both scales.
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/quantized_input.h"
#include "backends/cpu/onednn/tile_epilogue.h"
#include "backends/cpu/onednn/tiled_products.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_rows.h"
#include "backends/cpu/simd_tiles.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

/// A tile that is shared out is decoded by each of those that share it.
constexpr int kWholeTilesPerThread = 1;
constexpr std::int64_t kRowsAtOnce = 8;

Tiling tiling_of(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  const Shape& weight = request.inputs[1].prototype.shape();
  return Tiling::choose(x.shape().rows(), weight[0], weight[1], dtype_size(x.dtype()), kChunkBytes, request.threads);
}

class DecodedLinear final : public Kernel {
 public:
  explicit DecodedLinear(const KernelRequest& request)
      : dtype_(request.inputs[0].prototype.dtype()),
        products_(tiling_of(request), dtype_, dtype_),
        preparation_(quantization_of(request), products_.tiling().inputs),
        epilogue_(request),
        kind_(kind_of(quantization_of(request))),
        format_(quantization_of(request).format),
        group_(quantization_of(request).group),
        copies_source_(products_.tiling().chunks() > 1 || !request.inputs[0].prototype.is_dense() ||
                       preparation_.changes_rows() || quantization_of(request).is_fp8()),
        threads_(request.threads) {
    const LinearQuantization& quantization = quantization_of(request);
    const std::int64_t outputs = products_.tiling().outputs;
    const std::int64_t inputs = products_.tiling().inputs;
    const std::int64_t groups = group_ == 0 ? 1 : inputs / group_;
    // Weights as they are stored, one or two a byte, row by row; then their scales.
    const bool halves = kind_ == StoredWeights::int4;
    const PackedForm form{
        "values, " + weight_format(quantization),
        {{{outputs, halves ? inputs / 2 : inputs}, stored_dtype(format_), {}}, {{outputs, groups}, DType::f32, {}}}};
    weight_ = request.weights.packed(request.inputs[1].weight, form, [&](const Tensor& stored) -> std::vector<Tensor> {
      const QuantizedWeight weight = quantize_weight(stored, quantization, threads_);
      return {halves ? pack_int4(weight.values) : weight.values, weight.scales};
    });
  }

  std::size_t scratch_bytes() const override {
    return source_bytes() + row_scale_bytes() + static_cast<std::size_t>(threads_) * bytes_per_thread();
  }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("linear", [&] {
      const auto own = [&](int worker) {
        return args.scratch.data() + source_bytes() + row_scale_bytes() +
               static_cast<std::size_t>(worker) * bytes_per_thread();
      };
      float* const row_scales =
          rounds_source() ? reinterpret_cast<float*>(args.scratch.data() + source_bytes()) : nullptr;
      const void* source = args.inputs[0].data();
      if (copies_source_) {
        prepare_source(args, own, row_scales);
        source = args.scratch.data();
      }
      const Tiling& tiling = products_.tiling();
      const TileEpilogue::Rows rows = epilogue_.rows_of(args);
      products_.for_each(
          args.threads, kWholeTilesPerThread, [&](std::int64_t tile, std::int64_t first, std::int64_t end, int worker) {
            std::byte* sums_and_scratch = own(worker);
            std::byte* weight = sums_and_scratch + products_.bytes_per_thread();
            decode_tile(tile, weight);
            const std::int64_t column = tile * tiling.tile;
            TileSums sums;
            sums.floats = reinterpret_cast<const float*>(sums_and_scratch);
            sums.column_scales = group_ == 0 ? weight_->parts[1].as<float>() + column : nullptr;
            epilogue_.complete(sums, rows, column);
            const auto part = [&](std::int64_t chunk) {
              return weight + static_cast<std::size_t>(chunk) * whole_lines(products_.weight_bytes());
            };
            for (std::int64_t block = first; block < end; ++block) {
              products_.run(source, block, part, sums_and_scratch);
              sums.row_scales = row_scales == nullptr ? nullptr : row_scales + block * tiling.block;
              finish_tile(sums, tiling.rows_of(block), tiling.tile, rows.target, block * tiling.block, column);
            }
          });
    });
  }

 private:
  static StoredWeights kind_of(const LinearQuantization& quantization) {
    if (quantization.is_fp8()) return StoredWeights::e4m3;
    return quantization.format == LinearFormat::w4a16 ? StoredWeights::int4 : StoredWeights::int8;
  }
  bool rounds_source() const { return kind_ == StoredWeights::e4m3; }

  /// One tile's weights as floats in the products' layout. Where all of an output's weights share a scale it is
  /// applied to the sums, and the floats are what is stored, exactly; else scaled.
  void decode_tile(std::int64_t tile, std::byte* target) const {
    const Tiling& tiling = products_.tiling();
    std::byte* plain = target + static_cast<std::size_t>(tiling.chunks()) * whole_lines(products_.weight_bytes());
    const auto element = dtype_size(dtype_);
    for (std::int64_t chunk = 0; chunk < tiling.chunks(); ++chunk) {
      const std::int64_t groups = group_ == 0 ? 0 : tiling.inputs / group_;
      for (std::int64_t n = 0; n < tiling.tile; ++n) {
        const std::int64_t first = (tile * tiling.tile + n) * tiling.inputs + chunk * tiling.chunk;
        const auto* stored = weight_->parts[0].as<std::byte>() + (kind_ == StoredWeights::int4 ? first / 2 : first);
        const float* scales = group_ == 0 ? nullptr
                                          : weight_->parts[1].as<float>() + (tile * tiling.tile + n) * groups +
                                                chunk * tiling.chunk / group_;
        decode_weights(stored, kind_, scales, group_, tiling.chunk,
                       {plain + static_cast<std::size_t>(n * tiling.chunk) * element, tiling.chunk, 0}, dtype_);
      }
      products_.reorder(plain, tiling.chunk,
                        target + static_cast<std::size_t>(chunk) * whole_lines(products_.weight_bytes()));
    }
  }

  /// [rows][inputs] -> [chunk][rows][inputs of the chunk], smoothed, turned, in e4m3 where the format says so.
  template <typename Own>
  void prepare_source(const KernelArgs& args, const Own& own, float* row_scales) const {
    const Tiling& tiling = products_.tiling();
    const auto size = dtype_size(dtype_);
    const float largest_of_all = format_ == LinearFormat::fp8_per_tensor ? largest_input(args, own, row_scales) : 0;
    for_each_row(args, own, [&](const RowMap& rows, std::int64_t row, std::int64_t r) {
      std::byte* const to = args.scratch.data() + static_cast<std::size_t>(r * tiling.chunk) * size;
      if (rounds_source()) {
        const bool has_own = format_ == LinearFormat::fp8;
        const float largest = has_own ? largest_in_row(rows, row, tiling.inputs) : largest_of_all;
        row_scales[r] = round_row_to_e4m3(rows, row, tiling.inputs, largest,
                                          {to, tiling.chunk, tiling.rows * tiling.chunk}, dtype_);
        return;
      }
      const Tensor whole = Tensor::borrow(rows.template row<std::byte>(row), {1, tiling.inputs}, rows.dtype());
      for (std::int64_t c = 0; c < tiling.chunks(); ++c) {
        cast_rows(RowMap(whole.sliced(1, c * tiling.chunk, (c + 1) * tiling.chunk)),
                  RowMap(Tensor::borrow(to + static_cast<std::size_t>(c * tiling.rows * tiling.chunk) * size,
                                        {1, tiling.chunk}, dtype_)),
                  {0, 1, tiling.chunk});
      }
    });
  }

  /// Of all rows; `of_rows` is room for one number each.
  template <typename Own>
  float largest_input(const KernelArgs& args, const Own& own, float* of_rows) const {
    for_each_row(args, own, [&](const RowMap& rows, std::int64_t row, std::int64_t r) {
      of_rows[r] = largest_in_row(rows, row, products_.tiling().inputs);
    });
    float largest = 0;
    for (std::int64_t r = 0; r < products_.tiling().rows; ++r) {
      if (!(of_rows[r] <= largest) && !std::isnan(largest)) largest = of_rows[r];
    }
    return largest;
  }

  /// Calls item(rows, row, index) for each of x's rows, smoothed and turned, in parallel.
  template <typename Own, typename Item>
  void for_each_row(const KernelArgs& args, const Own& own, const Item& item) const {
    const std::int64_t count = products_.tiling().rows;
    const RowMap x(args.inputs[0]);
    parallel_items(args.threads, (count + kRowsAtOnce - 1) / kRowsAtOnce, [&](std::int64_t group, int worker) {
      auto* prepared = reinterpret_cast<float*>(own(worker));
      for (std::int64_t r = group * kRowsAtOnce; r < std::min(count, (group + 1) * kRowsAtOnce); ++r) {
        const auto [rows, row] = preparation_.prepare(x, r, prepared);
        item(rows, row, r);
      }
    });
  }

  std::size_t source_bytes() const {
    const Tiling& tiling = products_.tiling();
    return copies_source_ ? whole_lines(static_cast<std::size_t>(tiling.rows * tiling.inputs) * dtype_size(dtype_)) : 0;
  }
  std::size_t row_scale_bytes() const {
    return rounds_source() ? whole_lines(static_cast<std::size_t>(products_.tiling().rows) * sizeof(float)) : 0;
  }
  std::size_t bytes_per_thread() const {
    const Tiling& tiling = products_.tiling();
    const auto plain = static_cast<std::size_t>(tiling.tile * tiling.chunk) * dtype_size(dtype_);
    const auto weights = static_cast<std::size_t>(tiling.chunks()) * whole_lines(products_.weight_bytes());
    const auto row = static_cast<std::size_t>(tiling.inputs) * sizeof(float);
    return whole_lines(std::max(products_.bytes_per_thread() + weights + plain, row));
  }

  DType dtype_;
  TiledProducts products_;
  InputPreparation preparation_;
  TileEpilogue epilogue_;
  StoredWeights kind_;
  LinearFormat format_;
  std::int64_t group_;
  bool copies_source_;
  int threads_;
  std::shared_ptr<const PackedWeight> weight_;
};

Refusal refuse_products(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  if (x.dtype() == DType::bf16 && !has_native_bf16()) return "bfloat16 products need a CPU level of avx512_bf16";
  if (x.dtype() != DType::f32 && x.dtype() != DType::bf16) return "takes float32 and bfloat16 only";
  if (!has_dense_rows(x)) return "takes dense rows only";
  if (x.elements() == 0 || request.inputs[1].prototype.elements() == 0) return "takes no empty operands";
  return refuse_unless_stored(request);
}

Refusal supports_weight_only(const KernelRequest& request) {
  const auto& quantization = static_cast<const LinearOp&>(request.op).quantization();
  if (!quantization || quantization->quantizes_input()) return "takes w8a16 and w4a16 only";
  if (auto refusal = refuse_products(request)) return refusal;
  if (quantization->group != 0 && tiling_of(request).chunk % quantization->group != 0)
    return "takes groups that divide a chunk of the inputs only";
  if (quantization->format == LinearFormat::w4a16 && tiling_of(request).chunk % 2 != 0)
    return "takes an even number of inputs a chunk only";
  return std::nullopt;
}

Refusal supports_fp8(const KernelRequest& request) {
  const auto& quantization = static_cast<const LinearOp&>(request.op).quantization();
  if (!quantization || !quantization->is_fp8()) return "takes fp8 only";
  if (quantization->group != 0) return "takes one scale an output only";
  return refuse_products(request);
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  return with_onednn_errors("linear", [&] { return std::make_unique<DecodedLinear>(request); });
}

constexpr std::array kEntries{KernelEntry{"linear", "weight-only", true, supports_weight_only, make},
                              KernelEntry{"linear", "fp8", true, supports_fp8, make}};

}  // namespace

std::span<const KernelEntry> decoded_linear_kernels() { return kEntries; }

}  // namespace rondo::cpu
