// Linear layers cut into tiles of outputs x blocks of rows x chunks of inputs, so that a tile's weights and input stay
// in the level-2 cache while oneDNN multiplies them. oneDNN 2.6's own blocking loses there: in bfloat16 on AMX
// 256x3072x256 runs at 3 to 4 times the rate of 1024x3072x3072 on one thread, in 8 bits at 4 to 6 times.
#pragma once

#include <array>
#include <functional>

#include "backends/cpu/onednn/weights.h"
#include "backends/kernel.h"

namespace rondo::cpu {

/// Bytes of a chunk's inputs, at most: a chunk's weights and input of one tile are 0.75 MiB each and share a level-2
/// cache of 2 MiB; chunks up to 8,192 bytes made a FLUX-width step in bfloat16 5 % slower.
constexpr std::size_t kChunkBytes = 3072;
/// From so many tiles a thread on none has to be shared out.
constexpr int kTilesPerThread = 4;

/// How a product [rows, inputs] x [outputs, inputs]^T is cut.
struct Tiling {
  std::int64_t rows;
  std::int64_t outputs;
  std::int64_t inputs;
  std::int64_t tile;   // outputs of a tile; divides them
  std::int64_t block;  // rows of a block; the last may have fewer
  std::int64_t chunk;  // inputs of a chunk; divides them

  std::int64_t tiles() const { return outputs / tile; }
  std::int64_t blocks() const { return (rows + block - 1) / block; }
  std::int64_t chunks() const { return inputs / chunk; }
  std::int64_t rows_of(std::int64_t index) const { return std::min(block, rows - index * block); }

  /// Tiles of 256 outputs where they divide evenly; chunks of at most `chunk_bytes` (kChunkBytes for most). Blocks are
  /// smaller where there would otherwise be less work items than threads.
  static Tiling choose(std::int64_t rows, std::int64_t outputs, std::int64_t inputs, std::size_t element_size,
                       std::size_t chunk_bytes, int threads);
};

/// The products of a tile: float sums of float operands, or int32 sums of u8 inputs and s8 weights.
class TiledProducts {
 public:
  TiledProducts(const Tiling& tiling, DType source, DType weight);

  const Tiling& tiling() const { return tiling_; }
  DType weight_dtype() const { return weight_; }
  const dnnl::memory::desc& weight_layout() const { return layout_; }
  std::size_t weight_bytes() const { return layout_.get_size(); }
  /// Bytes of the sums of one block and of what oneDNN wants beside them, for one thread.
  std::size_t bytes_per_thread() const;

  /// Puts a chunk of a tile's weights, at `first` with `stride` elements between outputs, into the layout.
  void reorder(const void* first, std::int64_t stride, void* target) const;

  /// The sums [rows of the block, tile] of one tile, at the start of `own`. `source` is cut into chunks:
  /// [chunk][row][inputs of the chunk]; `weight` gives a chunk's weights.
  void run(const void* source, std::int64_t block, const std::function<const void*(std::int64_t chunk)>& weight,
           std::byte* own) const;

  /// Calls item(tile, first block, end block, worker) until every block of every tile had its turn, in parallel. A tile
  /// is shared out block by block where there are fewer than `whole_from` tiles a thread.
  void for_each(int threads, int whole_from,
                const std::function<void(std::int64_t, std::int64_t, std::int64_t, int)>& item) const;

 private:
  struct Product {
    dnnl::memory::desc source;
    dnnl::memory::desc target;
    dnnl::memory::desc scratch;
    dnnl::matmul primitive;
  };
  Product make(std::int64_t rows, const dnnl::memory::desc& weights, bool adds);
  std::size_t sums_bytes() const;

  Tiling tiling_;
  DType source_;
  DType weight_;
  dnnl::memory::desc layout_;
  std::array<std::array<Product, 2>, 2> products_;  // by whole block or last, first chunk or later
  std::size_t scratch_bytes_ = 0;
};

/// Rows of a weight, with what goes beside them in 8 bits.
struct WeightRows {
  Tensor values;                                   // [outputs, inputs], dense
  Tensor scales = Tensor::empty({0}, DType::f32);  // [outputs]; of integers
  Tensor zeros = Tensor::empty({0}, DType::s32);   // [outputs]; what an input's zero adds to the sums
};

/// A weight cut into tiles and chunks in the layout of their products.
class TiledWeight {
 public:
  /// From the store, or made of the rows that `make` gives for the stored weight. `format` says what they are.
  TiledWeight(const KernelRequest& request, const TiledProducts& products, const std::string& format,
              const std::function<WeightRows(const Tensor& stored)>& make);

  const void* part(std::int64_t tile, std::int64_t chunk) const {
    return weight_->parts[0].as<std::byte>() + static_cast<std::size_t>(tile * chunks_ + chunk) * chunk_bytes_;
  }
  const float* scales() const { return weight_->parts[1].as<float>(); }
  const std::int32_t* zeros() const { return weight_->parts[2].as<std::int32_t>(); }

 private:
  std::int64_t chunks_;
  std::size_t chunk_bytes_;
  std::shared_ptr<const PackedWeight> weight_;
};

/// Tiled kernels take weights that a store holds, biases in float32, gate and residual in dense rows.
Refusal refuse_unless_stored(const KernelRequest& request);

/// `bytes` rounded up to whole cache lines.
constexpr std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace rondo::cpu
