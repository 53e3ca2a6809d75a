// Linear layers in bfloat16 on AMX, cut into tiles of 256 x 256 whose weights stay in the level-2 cache. oneDNN 2.6's
// own blocking loses there: 256x3072x256 runs at 3 to 4 times the rate of 1024x3072x3072 on one thread.
#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/primitives.h"
#include "backends/cpu/onednn/weights.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_rows.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

using dnnl::memory;

constexpr std::int64_t kTile = 256;
constexpr std::int64_t kLongestChunk = 1536;

/// Into how many equal chunks the sum over K is cut. A chunk's weights and input of one tile are 0.75 MiB each and
/// share a level-2 cache of 2 MiB; chunks up to 4096 made a FLUX-width step 5 % slower.
std::int64_t chunk_count(std::int64_t k) {
  for (std::int64_t chunks = 1; chunks <= 64; ++chunks) {
    if (k % chunks == 0 && k / chunks <= kLongestChunk) return chunks;
  }
  return 0;
}

/// A weight as tiles of 256 outputs x one chunk of inputs, each in the layout of its product.
class TiledWeight final : public PackedWeight {
 public:
  TiledWeight(const memory::desc& layout, std::int64_t tiles, std::int64_t chunks)
      : layout_(layout),
        chunks_(chunks),
        data_(Tensor::empty({tiles * chunks * static_cast<std::int64_t>(layout_.get_size())}, DType::u8)) {}
  std::size_t bytes() const override { return data_.bytes(); }
  const memory::desc& layout() const { return layout_; }
  void* tile(std::int64_t tile, std::int64_t chunk) const {
    return const_cast<std::byte*>(data_.as<std::byte>()) +
           static_cast<std::size_t>(tile * chunks_ + chunk) * layout_.get_size();
  }

 private:
  memory::desc layout_;
  std::int64_t chunks_;
  Tensor data_;
};

/// One tile's product over one chunk: the first writes (and adds the bias), the others add to what is there.
struct TileProduct {
  memory::desc source;
  memory::desc weights;
  memory::desc target;
  memory::desc bias;
  memory::desc scratch;
  dnnl::matmul primitive;

  TileProduct() = default;
  TileProduct(std::int64_t rows, std::int64_t chunk, const memory::desc& weight_layout, bool has_bias, bool adds)
      : source({rows, chunk}, memory::data_type::bf16, memory::format_tag::ab),
        target({rows, kTile}, memory::data_type::f32, memory::format_tag::ab) {
    if (has_bias) bias = memory::desc({1, kTile}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (adds) {
      dnnl::post_ops sum;
      sum.append_sum(1.0F);
      attr.set_post_ops(sum);
    }
    const auto description = matmul_primitive(onednn_engine(), source, weight_layout, bias, target, attr);
    weights = description.weights_desc();
    scratch = description.scratchpad_desc();
    primitive = dnnl::matmul(description);
  }

  void run(const void* from, void* weight, float* to, const float* bias_values, void* scratch_memory) const {
    const dnnl::engine& engine = onednn_engine();
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory(source, engine, const_cast<void*>(from))},
        {DNNL_ARG_WEIGHTS, memory(weights, engine, weight)},
        {DNNL_ARG_DST, memory(target, engine, to)},
        {DNNL_ARG_SCRATCHPAD, memory(scratch, engine, scratch_memory)},
    };
    if (bias_values != nullptr) {
      arguments.emplace(DNNL_ARG_BIAS, memory(bias, engine, const_cast<float*>(bias_values)));
    }
    primitive.execute(onednn_stream(), arguments);
  }
};

class TiledLinear final : public Kernel {
 public:
  explicit TiledLinear(const KernelRequest& request)
      : rows_(request.inputs[0].prototype.shape().rows()),
        outputs_(request.inputs[1].prototype.shape()[0]),
        inputs_(request.inputs[1].prototype.shape()[1]),
        chunks_(chunk_count(inputs_)),
        chunk_(inputs_ / chunks_),
        copies_source_(chunks_ > 1 || !request.inputs[0].prototype.is_dense()),
        activation_(static_cast<const LinearOp&>(request.op).activation()),
        threads_(request.threads) {
    const bool has_bias = request.inputs.size() == 3;
    const ThreadTeamScope single(1);  // the products run inside a parallel loop over tiles
    const memory::desc any({chunk_, kTile}, memory::data_type::bf16, memory::format_tag::any);
    const std::int64_t tail = rows_ % kTile;
    products_[0][0] = TileProduct(kTile, chunk_, any, has_bias, false);
    const memory::desc layout = products_[0][0].weights;
    products_[0][1] = TileProduct(kTile, chunk_, layout, false, true);
    if (tail != 0) {
      products_[1][0] = TileProduct(tail, chunk_, layout, has_bias, false);
      products_[1][1] = TileProduct(tail, chunk_, layout, false, true);
    }
    for (const auto& by_rows : products_) {
      for (const TileProduct& product : by_rows) {
        if (product.primitive) scratch_per_product_ = std::max(scratch_per_product_, product.scratch.get_size());
      }
    }
    pack(request, layout);
    if (has_bias) bias_ = request.weights.get(request.inputs[2].weight, DType::f32);
  }

  std::size_t scratch_bytes() const override {
    return source_bytes() + static_cast<std::size_t>(threads_) * bytes_per_thread();
  }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("linear", [&] {
      const auto* source = static_cast<const std::uint16_t*>(args.inputs[0].data());
      if (copies_source_) source = cut_source(args);
      parallel_items(args.threads, outputs_ / kTile, [&](std::int64_t tile, int worker) {
        std::byte* own = args.scratch.data() + source_bytes() + static_cast<std::size_t>(worker) * bytes_per_thread();
        run_tile(args, source, tile, own);
      });
    });
  }

 private:
  std::size_t source_bytes() const {
    return !copies_source_ ? 0 : static_cast<std::size_t>(rows_ * inputs_) * sizeof(std::uint16_t) / 64 * 64 + 64;
  }
  std::size_t bytes_per_thread() const {
    return static_cast<std::size_t>(kTile * kTile) * sizeof(float) + scratch_per_product_ / 64 * 64 + 64;
  }

  void pack(const KernelRequest& request, const memory::desc& layout) {
    const auto accepts = [&](const PackedWeight& form) {
      const auto* tiled = dynamic_cast<const TiledWeight*>(&form);
      return tiled != nullptr && tiled->layout() == layout;
    };
    const auto make = [&](const Tensor& stored) -> std::shared_ptr<const PackedWeight> {
      const Tensor source = stored.dtype() == DType::bf16 ? stored : stored.to(DType::bf16);
      auto packed = std::make_shared<TiledWeight>(layout, outputs_ / kTile, chunks_);
      const memory::desc plain({chunk_, kTile}, memory::data_type::bf16, memory::dims{1, inputs_});
      const dnnl::engine& engine = onednn_engine();
      const dnnl::reorder reorder(dnnl::reorder::primitive_desc(engine, plain, engine, layout));
      for (std::int64_t tile = 0; tile < outputs_ / kTile; ++tile) {
        for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
          const auto* first = source.as<std::uint16_t>() + tile * kTile * inputs_ + chunk * chunk_;
          memory from(plain, engine, const_cast<std::uint16_t*>(first));
          memory to(layout, engine, packed->tile(tile, chunk));
          reorder.execute(onednn_stream(), from, to);
        }
      }
      onednn_stream().wait();
      return packed;
    };
    weight_ =
        std::static_pointer_cast<const TiledWeight>(request.weights.packed(request.inputs[1].weight, accepts, make));
  }

  /// [rows][inputs] -> [chunk][rows][inputs of the chunk]: oneDNN's fast product takes dense rows only.
  const std::uint16_t* cut_source(const KernelArgs& args) const {
    const RowMap source(args.inputs[0]);
    auto* target = reinterpret_cast<std::uint16_t*>(args.scratch.data());
    parallel_ranges(args.threads, rows_, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        for (std::int64_t c = 0; c < chunks_; ++c) {
          std::copy_n(source.row<const std::uint16_t>(r) + c * chunk_, chunk_, target + (c * rows_ + r) * chunk_);
        }
      }
    });
    return target;
  }

  void run_tile(const KernelArgs& args, const std::uint16_t* source, std::int64_t tile, std::byte* own) const {
    auto* sums = reinterpret_cast<float*>(own);
    std::byte* scratch = own + static_cast<std::size_t>(kTile * kTile) * sizeof(float);
    const float* bias = bias_.defined() ? bias_.as<float>() + tile * kTile : nullptr;
    for (std::int64_t first = 0; first < rows_; first += kTile) {
      const std::int64_t rows = std::min(kTile, rows_ - first);
      const auto& products = products_[rows == kTile ? 0 : 1];
      for (std::int64_t c = 0; c < chunks_; ++c) {
        products[c == 0 ? 0 : 1].run(source + (c * rows_ + first) * chunk_, weight_->tile(tile, c), sums,
                                     c == 0 ? bias : nullptr, scratch);
      }
      const Tensor products_sum = Tensor::borrow(sums, {rows, kTile}, DType::f32);
      // The tile is still in the level-2 cache.
      if (activation_) activation_rows(*activation_, RowMap(products_sum), RowMap(products_sum), {0, rows, kTile});
      const Tensor target = args.outputs[0]
                                .reshaped({rows_, outputs_})
                                .sliced(0, first, first + rows)
                                .sliced(1, tile * kTile, (tile + 1) * kTile);
      cast_rows(RowMap(products_sum), RowMap(target), {0, rows, kTile});
    }
  }

  std::int64_t rows_;
  std::int64_t outputs_;
  std::int64_t inputs_;
  std::int64_t chunks_;
  std::int64_t chunk_;
  bool copies_source_;
  std::optional<ActivationKind> activation_;
  int threads_;
  std::array<std::array<TileProduct, 2>, 2> products_;  // by whole tile or tail, first chunk or later
  std::size_t scratch_per_product_ = 0;
  std::shared_ptr<const TiledWeight> weight_;
  Tensor bias_;
};

Refusal supports(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  const Shape& weight = request.inputs[1].prototype.shape();
  if (cpu_level() < CpuLevel::avx512_amx) return "needs a CPU level of avx512_amx";
  if (x.dtype() != DType::bf16 || request.inputs[1].prototype.dtype() != DType::bf16) return "takes bfloat16 only";
  if (!has_dense_rows(x)) return "takes dense rows only";
  for (const KernelInput& parameter : request.inputs.subspan(1)) {
    if (parameter.weight.empty()) return "takes stored weights only";
  }
  if (request.inputs.size() == 3 && request.inputs[2].prototype.dtype() != DType::f32)
    return "takes a float32 bias only";
  if (x.shape().rows() < kTile || weight[0] % kTile != 0 || weight[1] < kTile || chunk_count(weight[1]) == 0) {
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
