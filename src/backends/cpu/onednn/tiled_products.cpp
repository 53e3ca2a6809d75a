#include "backends/cpu/onednn/tiled_products.h"

#include <algorithm>
#include <unordered_map>

#include "backends/cpu/onednn/primitives.h"
#include "backends/cpu/onednn/tile_epilogue.h"
#include "core/threads.h"

namespace rondo::cpu {

using dnnl::memory;

namespace {

constexpr std::int64_t kBlock = 256;

std::int64_t choose_tile(std::int64_t outputs) {
  for (const std::int64_t tile : {256, 192, 128, 64}) {
    if (outputs % tile == 0) return tile;
  }
  return outputs;
}

std::int64_t choose_chunk(std::int64_t inputs, std::int64_t longest) {
  for (std::int64_t chunks = 1; chunks <= 64; ++chunks) {
    if (inputs % chunks == 0 && inputs / chunks <= longest) return inputs / chunks;
  }
  return inputs;
}

DType sums_dtype(DType source) { return source == DType::u8 ? DType::s32 : DType::f32; }

}  // namespace

Tiling Tiling::choose(std::int64_t rows, std::int64_t outputs, std::int64_t inputs, std::size_t element_size,
                      std::size_t chunk_bytes, int threads) {
  Tiling tiling{rows, outputs, inputs, choose_tile(outputs), kBlock, 0};
  tiling.chunk = choose_chunk(inputs, static_cast<std::int64_t>(chunk_bytes / element_size));
  const std::int64_t items = tiling.tiles() * tiling.blocks();
  // A few rows more for one thread than for another cost less than a tile that no thread can share.
  if (items < threads) tiling.block = (rows + threads - 1) / threads;
  return tiling;
}

TiledProducts::TiledProducts(const Tiling& tiling, DType source, DType weight)
    : tiling_(tiling), source_(source), weight_(weight) {
  const ThreadTeamScope single(1);  // the products run inside a parallel loop over tiles
  const std::int64_t whole = std::min(tiling.block, tiling.rows);
  const memory::desc any({tiling.chunk, tiling.tile}, onednn_dtype(weight), memory::format_tag::any);
  products_[0][0] = make(whole, any, false);
  const std::int64_t last = tiling.rows_of(tiling.blocks() - 1);
  const bool adds = tiling.chunks() > 1;
  if (adds) products_[0][1] = make(whole, layout_, true);
  if (last != whole) {
    products_[1][0] = make(last, layout_, false);
    if (adds) products_[1][1] = make(last, layout_, true);
  }
}

TiledProducts::Product TiledProducts::make(std::int64_t rows, const memory::desc& weights, bool adds) {
  Product product;
  product.source = memory::desc({rows, tiling_.chunk}, onednn_dtype(source_), memory::format_tag::ab);
  product.target = memory::desc({rows, tiling_.tile}, onednn_dtype(sums_dtype(source_)), memory::format_tag::ab);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (adds) {
    dnnl::post_ops sum;
    sum.append_sum(1.0F);
    attr.set_post_ops(sum);
  }
  const auto description = matmul_primitive(onednn_engine(), product.source, weights, {}, product.target, attr);
  layout_ = description.weights_desc();
  product.scratch = description.scratchpad_desc();
  product.primitive = dnnl::matmul(description);
  scratch_bytes_ = std::max(scratch_bytes_, product.scratch.get_size());
  return product;
}

std::size_t TiledProducts::sums_bytes() const {
  return whole_lines(static_cast<std::size_t>(std::min(tiling_.block, tiling_.rows) * tiling_.tile) * sizeof(float));
}

std::size_t TiledProducts::bytes_per_thread() const { return sums_bytes() + whole_lines(scratch_bytes_); }

void TiledProducts::reorder(const void* first, std::int64_t stride, void* target) const {
  const dnnl::engine& engine = onednn_engine();
  const memory::desc plain({tiling_.chunk, tiling_.tile}, onednn_dtype(weight_), memory::dims{1, stride});
  memory from(plain, engine, const_cast<void*>(first));
  memory to(layout_, engine, target);
  dnnl::reorder(from, to).execute(onednn_stream(), from, to);
  onednn_stream().wait();
}

void TiledProducts::run(const void* source, std::int64_t block,
                        const std::function<const void*(std::int64_t chunk)>& weight, std::byte* own) const {
  const dnnl::engine& engine = onednn_engine();
  const auto& products = products_[tiling_.rows_of(block) == std::min(tiling_.block, tiling_.rows) ? 0 : 1];
  for (std::int64_t c = 0; c < tiling_.chunks(); ++c) {
    const Product& product = products[c == 0 ? 0 : 1];
    const auto first = static_cast<std::size_t>((c * tiling_.rows + block * tiling_.block) * tiling_.chunk);
    auto* from = static_cast<std::byte*>(const_cast<void*>(source)) + first * dtype_size(source_);
    product.primitive.execute(onednn_stream(),
                              {{DNNL_ARG_SRC, memory(product.source, engine, from)},
                               {DNNL_ARG_WEIGHTS, memory(layout_, engine, const_cast<void*>(weight(c)))},
                               {DNNL_ARG_DST, memory(product.target, engine, own)},
                               {DNNL_ARG_SCRATCHPAD, memory(product.scratch, engine, own + sums_bytes())}});
  }
  onednn_stream().wait();
}

void TiledProducts::for_each(int threads, int whole_from,
                             const std::function<void(std::int64_t, std::int64_t, std::int64_t, int)>& item) const {
  const std::int64_t blocks = tiling_.blocks();
  if (tiling_.tiles() >=
      static_cast<std::int64_t>(whole_from) * threads) {  // its weights go into one core's cache only
    parallel_items(threads, tiling_.tiles(), [&](std::int64_t tile, int worker) { item(tile, 0, blocks, worker); });
    return;
  }
  parallel_items(threads, tiling_.tiles() * blocks, [&](std::int64_t index, int worker) {
    item(index / blocks, index % blocks, index % blocks + 1, worker);
  });
}

TiledWeight::TiledWeight(const KernelRequest& request, const TiledProducts& products, const std::string& format,
                         const std::function<WeightRows(const Tensor& stored)>& make)
    : chunks_(products.tiling().chunks()), chunk_bytes_(products.weight_bytes()) {
  const Tiling& tiling = products.tiling();
  const bool integers = products.weight_dtype() == DType::s8;
  const std::int64_t bytes = tiling.tiles() * chunks_ * static_cast<std::int64_t>(chunk_bytes_);
  const std::int64_t beside = integers ? tiling.outputs : 0;
  const PackedForm form{fmt::format("{} in tiles of {} outputs and {} inputs, {}", format, tiling.tile, tiling.chunk,
                                    layout_name(products.weight_layout())),
                        {{{bytes}, DType::u8, {}}, {{beside}, DType::f32, {}}, {{beside}, DType::s32, {}}}};
  weight_ = request.weights.packed(request.inputs[1].weight, form, [&](const Tensor& stored) -> std::vector<Tensor> {
    const WeightRows rows = make(stored);
    const std::size_t size = dtype_size(rows.values.dtype());
    Tensor data = Tensor::empty({bytes}, DType::u8);
    for (std::int64_t tile = 0; tile < tiling.tiles(); ++tile) {
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const std::int64_t first = tile * tiling.tile * tiling.inputs + chunk * tiling.chunk;
        products.reorder(rows.values.as<std::byte>() + static_cast<std::size_t>(first) * size, tiling.inputs,
                         data.as<std::byte>() + static_cast<std::size_t>(tile * chunks_ + chunk) * chunk_bytes_);
      }
    }
    return {data, rows.scales, rows.zeros};
  });
}

Refusal refuse_unless_stored(const KernelRequest& request) {
  for (std::size_t i = 1; i < std::min<std::size_t>(3, request.inputs.size()); ++i) {
    if (request.inputs[i].weight.empty()) return "takes stored weights only";
  }
  if (request.inputs.size() > 2 && request.inputs[2].prototype.dtype() != DType::f32)
    return "takes a float32 bias only";
  return refuse_gated_gaps(request);
}

}  // namespace rondo::cpu
