// w8a8 linears: the input in 8 bits a row, products of u8 and s8 summed in int32 by tiles, scales applied to the sums.
// On VNNI and AMX u8 times s8 runs at 1.25 times the rate of s8 times s8, which oneDNN has to shift first.
#include <algorithm>
#include <array>

#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/quantized_input.h"
#include "backends/cpu/onednn/tile_epilogue.h"
#include "backends/cpu/onednn/tiled_products.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_tiles.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

/// So many products of 255 and 127 fit into 31 bits.
constexpr std::int64_t kMostInputs = 65536;
constexpr std::int64_t kRowsAtOnce = 8;

Tiling tiling_of(const KernelRequest& request) {
  const Shape& weight = request.inputs[1].prototype.shape();
  // Below VNNI oneDNN multiplies by copying both operands: the longer the sums, the less that weighs.
  const std::size_t chunk = cpu_level() >= CpuLevel::avx512_vnni ? kChunkBytes : kMostInputs;
  return Tiling::choose(request.inputs[0].prototype.shape().rows(), weight[0], weight[1], 1, chunk, request.threads);
}

class Int8Linear final : public Kernel {
 public:
  explicit Int8Linear(const KernelRequest& request)
      : products_(tiling_of(request), DType::u8, DType::s8),
        preparation_(quantization_of(request), products_.tiling().inputs),
        epilogue_(request),
        threads_(request.threads),
        weight_(request, products_, weight_format(quantization_of(request)), [&](const Tensor& stored) -> WeightRows {
          const QuantizedWeight weight = quantize_weight(stored, quantization_of(request), request.threads);
          return {weight.values, weight.scales.reshaped({weight.scales.elements()}), zeros_of(weight.values)};
        }) {}

  std::size_t scratch_bytes() const override {
    return source_bytes() + row_scale_bytes() + static_cast<std::size_t>(threads_) * bytes_per_thread();
  }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("linear", [&] {
      auto* source = reinterpret_cast<std::uint8_t*>(args.scratch.data());
      auto* row_scales = reinterpret_cast<float*>(args.scratch.data() + source_bytes());
      std::byte* others = args.scratch.data() + source_bytes() + row_scale_bytes();
      const auto own = [&](int worker) { return others + static_cast<std::size_t>(worker) * bytes_per_thread(); };
      const Tiling& tiling = products_.tiling();

      const RowMap x(args.inputs[0]);
      parallel_items(args.threads, (tiling.rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](std::int64_t item, int worker) {
        auto* prepared = reinterpret_cast<float*>(own(worker));
        for (std::int64_t r = item * kRowsAtOnce; r < std::min(tiling.rows, (item + 1) * kRowsAtOnce); ++r) {
          const auto [rows, row] = preparation_.prepare(x, r, prepared);
          row_scales[r] = quantize_row(rows, row, tiling.inputs,
                                       {source + r * tiling.chunk, tiling.chunk, tiling.rows * tiling.chunk});
        }
      });

      const TileEpilogue::Rows rows = epilogue_.rows_of(args);
      products_.for_each(
          args.threads, kTilesPerThread, [&](std::int64_t tile, std::int64_t first, std::int64_t end, int worker) {
            const std::int64_t column = tile * tiling.tile;
            TileSums sums;
            sums.integers = reinterpret_cast<const std::int32_t*>(own(worker));
            sums.zeros = weight_.zeros() + column;
            sums.column_scales = weight_.scales() + column;
            epilogue_.complete(sums, rows, column);
            for (std::int64_t block = first; block < end; ++block) {
              products_.run(
                  source, block, [&](std::int64_t chunk) { return weight_.part(tile, chunk); }, own(worker));
              sums.row_scales = row_scales + block * tiling.block;
              finish_tile(sums, tiling.rows_of(block), tiling.tile, rows.target, block * tiling.block, column);
            }
          });
    });
  }

 private:
  static Tensor zeros_of(const Tensor& values) {
    const std::int64_t outputs = values.shape()[0];
    const std::int64_t inputs = values.shape()[1];
    Tensor zeros = Tensor::empty({outputs}, DType::s32);
    for (std::int64_t n = 0; n < outputs; ++n) {
      std::int32_t sum = 0;
      for (std::int64_t k = 0; k < inputs; ++k) sum += values.as<std::int8_t>()[n * inputs + k];
      zeros.as<std::int32_t>()[n] = kInputZero * sum;
    }
    return zeros;
  }

  std::size_t source_bytes() const {
    return whole_lines(static_cast<std::size_t>(products_.tiling().rows * products_.tiling().inputs));
  }
  std::size_t row_scale_bytes() const {
    return whole_lines(static_cast<std::size_t>(products_.tiling().rows) * sizeof(float));
  }
  std::size_t bytes_per_thread() const {
    const auto row = static_cast<std::size_t>(products_.tiling().inputs) * sizeof(float);
    return std::max(products_.bytes_per_thread(), preparation_.changes_rows() ? whole_lines(row) : 0);
  }

  TiledProducts products_;
  InputPreparation preparation_;
  TileEpilogue epilogue_;
  int threads_;
  TiledWeight weight_;
};

Refusal supports(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  const auto& quantization = static_cast<const LinearOp&>(request.op).quantization();
  if (!quantization || quantization->format != LinearFormat::w8a8) return "takes w8a8 only";
  if (quantization->group != 0) return "takes one scale an output only";
  if (!has_dense_rows(x)) return "takes dense rows only";
  if (x.elements() == 0 || request.inputs[1].prototype.elements() == 0) return "takes no empty operands";
  if (x.shape().back() > kMostInputs) return "takes at most 65536 inputs";
  // Below VNNI products are summed in pairs in 16 bits: 2 * 255 * 64 is the most that fits.
  if (cpu_level() < CpuLevel::avx512_vnni && quantization->weight_limit > 63)
    return "below a CPU level of avx512_vnni takes weights up to 63 only";
  return refuse_unless_stored(request);
}

constexpr std::array kEntries{
    KernelEntry{"linear", "int8", true, supports, [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                  return with_onednn_errors("linear", [&] { return std::make_unique<Int8Linear>(request); });
                }}};

}  // namespace

std::span<const KernelEntry> int8_linear_kernels() { return kEntries; }

}  // namespace rondo::cpu
