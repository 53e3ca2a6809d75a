// Linear layers in bfloat16 on AMX, by tiles.
#include <array>
#include <cstring>

#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/tile_epilogue.h"
#include "backends/cpu/onednn/tiled_products.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_tiles.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kFewestRows = 256;
constexpr std::int64_t kOutputs = 256;

Tiling tiling_of(const KernelRequest& request) {
  const Shape& weight = request.inputs[1].prototype.shape();
  return Tiling::choose(request.inputs[0].prototype.shape().rows(), weight[0], weight[1], dtype_size(DType::bf16),
                        kChunkBytes, request.threads);
}

class TiledLinear final : public Kernel {
 public:
  explicit TiledLinear(const KernelRequest& request)
      : products_(tiling_of(request), DType::bf16, DType::bf16),
        copies_source_(products_.tiling().chunks() > 1 || !request.inputs[0].prototype.is_dense()),
        epilogue_(request),
        threads_(request.threads),
        weight_(request, products_, "bfloat16",
                [](const Tensor& stored) -> WeightRows { return {stored.to(DType::bf16)}; }) {}

  std::size_t scratch_bytes() const override {
    return source_bytes() + static_cast<std::size_t>(threads_) * products_.bytes_per_thread();
  }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("linear", [&] {
      const void* source = copies_source_ ? cut_source(args) : args.inputs[0].data();
      const Tiling& tiling = products_.tiling();
      const TileEpilogue::Rows rows = epilogue_.rows_of(args);
      products_.for_each(
          args.threads, kTilesPerThread, [&](std::int64_t tile, std::int64_t first, std::int64_t end, int worker) {
            std::byte* own =
                args.scratch.data() + source_bytes() + static_cast<std::size_t>(worker) * products_.bytes_per_thread();
            TileSums sums;
            sums.floats = reinterpret_cast<const float*>(own);
            epilogue_.complete(sums, rows, tile * tiling.tile);
            for (std::int64_t block = first; block < end; ++block) {
              products_.run(
                  source, block, [&](std::int64_t chunk) { return weight_.part(tile, chunk); }, own);
              finish_tile(sums, tiling.rows_of(block), tiling.tile, rows.target, block * tiling.block,
                          tile * tiling.tile);
            }
          });
    });
  }

 private:
  std::size_t source_bytes() const {
    const Tiling& tiling = products_.tiling();
    return copies_source_ ? whole_lines(static_cast<std::size_t>(tiling.rows * tiling.inputs) * sizeof(std::uint16_t))
                          : 0;
  }

  /// [rows][inputs] -> [chunk][rows][inputs of the chunk]: oneDNN's fast product takes dense rows only.
  const void* cut_source(const KernelArgs& args) const {
    const Tiling& tiling = products_.tiling();
    const RowMap source(args.inputs[0]);
    auto* target = reinterpret_cast<std::uint16_t*>(args.scratch.data());
    parallel_ranges(args.threads, tiling.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        for (std::int64_t c = 0; c < tiling.chunks(); ++c) {
          std::copy_n(source.row<const std::uint16_t>(r) + c * tiling.chunk, tiling.chunk,
                      target + (c * tiling.rows + r) * tiling.chunk);
        }
      }
    });
    return target;
  }

  TiledProducts products_;
  bool copies_source_;
  TileEpilogue epilogue_;
  int threads_;
  TiledWeight weight_;
};

Refusal supports(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  if (static_cast<const LinearOp&>(request.op).quantization()) return "takes unquantised products only";
  if (cpu_level() < CpuLevel::avx512_amx) return "needs a CPU level of avx512_amx";
  if (x.dtype() != DType::bf16 || request.inputs[1].prototype.dtype() != DType::bf16) return "takes bfloat16 only";
  if (!has_dense_rows(x)) return "takes dense rows only";
  if (auto refusal = refuse_unless_stored(request)) return refusal;
  const Shape& weight = request.inputs[1].prototype.shape();
  if (x.shape().rows() < kFewestRows || weight[0] % kOutputs != 0 || weight[1] < kOutputs ||
      tiling_of(request).chunk * 2 > static_cast<std::int64_t>(kChunkBytes)) {
    return "pays from 256 rows on, takes outputs in multiples of 256";
  }
  return std::nullopt;
}

constexpr std::array kEntries{
    KernelEntry{"linear", "onednn-tiled", true, supports, [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                  return with_onednn_errors("linear", [&] { return std::make_unique<TiledLinear>(request); });
                }}};

}  // namespace

std::span<const KernelEntry> tiled_linear_kernels() { return kEntries; }

}  // namespace rondo::cpu
