// Chooses for each call how wide its loads are and how many threads a row gets, and launches.
#include "backends/cuda/device/attention.cuh"
#include "backends/cuda/device/attention_mma.cuh"
#include "backends/cuda/device/elements.cuh"
#include "backends/cuda/device/heads.cuh"
#include "backends/cuda/device/launch.cuh"
#include "backends/cuda/device/merge.cuh"
#include "backends/cuda/device/norms.cuh"
#include "backends/cuda/device/pictures.cuh"
#include "backends/cuda/device/quantize.cuh"
#include "backends/cuda/device/wire.cuh"

namespace rondo::cuda {
namespace {

constexpr std::int64_t kMostBlocks = std::int64_t{1} << 20;

unsigned blocks_for(std::int64_t elements) {
  const std::int64_t blocks = (elements + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

std::int64_t count_of(const View& view) {
  std::int64_t count = 1;
  for (const std::int64_t extent : view.extent) count *= extent;
  return count;
}

int bytes_of(Number number) {
  switch (number) {
    case Number::f32:
    case Number::s32: return 4;
    case Number::f16:
    case Number::bf16: return 2;
    case Number::s64: return 8;
    default: return 1;
  }
}

/// Whether every row begins on 16 bytes and holds whole loads of them.
bool takes_packs(const RowView& view) {
  if (view.data == nullptr) return true;
  const int size = bytes_of(view.number);
  const std::int64_t pack = 16 / size;
  bool fits = view.width % pack == 0 && reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  for (int axis = 0; axis < RowView::kAxes; ++axis)
    fits = fits && (view.extent[axis] == 1 || view.stride[axis] % pack == 0);
  return fits;
}

/// Whether a modulation's rows begin on 16 bytes, in x's numbers.
bool takes_packs(const Modulation& m, const RowView& x) {
  const std::int64_t pack = 16 / bytes_of(m.number);
  return m.number == x.number && reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 && m.batch_stride % pack == 0 &&
         m.token_stride % pack == 0;
}

/// A view whose last axis is dense as rows, neighbouring axes as one where they are; nothing where more than a row's
/// axes are left.
std::optional<RowView> as_rows(const View& view) {
  constexpr int kLast = View::kAxes - 1;
  if (view.extent[kLast] != 1 && view.stride[kLast] != 1) return std::nullopt;
  RowView rows;
  rows.data = view.data;
  rows.number = view.number;
  rows.width = view.extent[kLast];
  int place = RowView::kAxes;
  for (int axis = kLast - 1; axis >= 0; --axis) {
    if (view.extent[axis] == 1) continue;
    if (place < RowView::kAxes && view.stride[axis] == rows.stride[place] * rows.extent[place]) {
      rows.extent[place] *= view.extent[axis];
      continue;
    }
    if (place == 0) return std::nullopt;
    --place;
    rows.extent[place] = view.extent[axis];
    rows.stride[place] = view.stride[axis];
  }
  rows.find_spacing();
  return rows;
}

template <int value>
struct Constant {
  static constexpr int kValue = value;
};

/// Calls visit(pack, packs, threads) for rows of `width`, so that a thread's part fits into its registers.
template <typename T, typename Visit>
void with_row_shape(std::int64_t width, bool packed, const Visit& visit) {
  constexpr int kPack = 16 / sizeof(T);
  const auto with_packs = [&](auto pack, auto threads) {
    const std::int64_t once = static_cast<std::int64_t>(decltype(pack)::kValue) * decltype(threads)::kValue;
    if (width <= once) return visit(pack, Constant<1>{}, threads);
    if (width <= 2 * once) return visit(pack, Constant<2>{}, threads);
    if (width <= 4 * once) return visit(pack, Constant<4>{}, threads);
    if (width <= 8 * once || decltype(pack)::kValue > 1) return visit(pack, Constant<8>{}, threads);
    return visit(pack, Constant<32>{}, threads);  // kWidestNorm, one by one
  };
  constexpr std::int64_t kWarpWidth = 1024;
  if (packed && width <= kWarpWidth) return with_packs(Constant<kPack>{}, Constant<kWarp>{});
  if (packed) return with_packs(Constant<kPack>{}, Constant<kBlock>{});
  if (width <= kWarpWidth) return with_packs(Constant<1>{}, Constant<kWarp>{});
  with_packs(Constant<1>{}, Constant<kBlock>{});
}

template <int threads>
unsigned row_blocks(std::int64_t rows) {
  return static_cast<unsigned>(threads == kWarp ? (rows + kWarpRows - 1) / kWarpRows : rows);
}
constexpr unsigned row_threads(int threads) {
  return static_cast<unsigned>(threads == kWarp ? kWarp * kWarpRows : threads);
}

}  // namespace

void rms_norm(const RowView& x, const RowView& residual, const Vector& weight, float eps, const RowView& y,
              const RowView& sum, StreamHandle stream) {
  const bool packed = takes_packs(x) && takes_packs(residual) && takes_packs(y) && takes_packs(sum);
  with_float_type(x.number, [&](auto type) {
    using T = decltype(type);
    with_row_shape<T>(x.width, packed, [&](auto pack, auto packs, auto threads) {
      constexpr int kThreads = decltype(threads)::kValue;
      launch(rms_norm_kernel<T, decltype(pack)::kValue, decltype(packs)::kValue, kThreads>,
             row_blocks<kThreads>(x.rows()), row_threads(kThreads), 0, stream, x, residual, weight, eps, y, sum);
    });
  });
}

void layer_norm(const RowView& x, const Vector& weight, const Vector& bias, const Modulation& scale,
                const Modulation& shift, std::int64_t tokens, float eps, const RowView& y, StreamHandle stream) {
  with_float_type(x.number, [&](auto type) {
    using T = decltype(type);
    with_row_shape<T>(x.width, takes_packs(x) && takes_packs(y), [&](auto pack, auto packs, auto threads) {
      constexpr int kThreads = decltype(threads)::kValue;
      launch(layer_norm_kernel<T, decltype(pack)::kValue, decltype(packs)::kValue, kThreads>,
             row_blocks<kThreads>(x.rows()), row_threads(kThreads), 0, stream, x, weight, bias, scale, shift, tokens,
             eps, y);
    });
  });
}

namespace {

/// Whether rows of tables are float32 that begin on 16 bytes.
bool takes_packs(const RotaryTables& tables) {
  constexpr std::int64_t kPack = 16 / sizeof(float);
  const auto fits = [](const Vector& values) {
    return values.number == Number::f32 && reinterpret_cast<std::uintptr_t>(values.data) % 16 == 0;
  };
  return tables.interleaved && tables.stride % kPack == 0 && fits(tables.cos) && fits(tables.sin);
}

/// Calls visit with how many lanes, a power of two, hold so many packs.
template <typename Visit>
void with_group(std::int64_t packs, const Visit& visit) {
  if (packs <= 8) return visit(Constant<8>{});
  if (packs <= 16) return visit(Constant<16>{});
  visit(Constant<32>{});
}

}  // namespace

void rotate(const RowView& x, const RotaryTables& tables, bool norms, const Vector& weight, float eps, const RowView& y,
            StreamHandle stream) {
  const std::int64_t pack = 16 / bytes_of(x.number);
  if (takes_packs(x) && takes_packs(y) && takes_packs(tables) && x.width <= kWarp * pack) {
    return with_float_type(x.number, [&](auto type) {
      constexpr int kPack = 16 / sizeof(type);
      with_group(x.width / kPack, [&](auto group) {
        constexpr int kGroup = decltype(group)::kValue;
        launch(rotate_pairs_kernel<decltype(type), kPack, kGroup>, blocks_for(x.rows() * kGroup), kBlock, 0, stream, x,
               tables, norms, weight, eps, y);
      });
    });
  }
  with_float_type(x.number, [&](auto type) {
    launch(rotate_kernel<decltype(type)>, row_blocks<kWarp>(x.rows()), row_threads(kWarp), 0, stream, x, tables, norms,
           weight, eps, y);
  });
}

namespace {

/// Calls visit(type, pack) for elements of rows that take whole loads, or one by one.
template <typename Visit>
void with_packs(Number number, bool packed, const Visit& visit) {
  with_float_type(number, [&](auto type) {
    if (packed) return visit(type, Constant<16 / sizeof(type)>{});
    visit(type, Constant<1>{});
  });
}

unsigned pack_blocks(const RowView& rows, int pack) { return blocks_for(rows.rows() * rows.width / pack); }

}  // namespace

void modulate(const RowView& x, const Modulation& scale, const Modulation& shift, std::int64_t tokens, const RowView& y,
              StreamHandle stream) {
  const bool packed = takes_packs(x) && takes_packs(y) && takes_packs(scale, x) && takes_packs(shift, x);
  with_packs(x.number, packed, [&](auto type, auto pack) {
    constexpr int kPack = decltype(pack)::kValue;
    launch(modulate_kernel<decltype(type), kPack>, pack_blocks(x, kPack), kBlock, 0, stream, x, scale, shift, tokens,
           y);
  });
}

void gated_add(const RowView& x, const Modulation& gate, const RowView& more, std::int64_t tokens, const RowView& y,
               StreamHandle stream) {
  const bool packed = takes_packs(x) && takes_packs(more) && takes_packs(y) && takes_packs(gate, x);
  with_packs(x.number, packed, [&](auto type, auto pack) {
    constexpr int kPack = decltype(pack)::kValue;
    launch(gated_add_kernel<decltype(type), kPack>, pack_blocks(x, kPack), kBlock, 0, stream, x, gate, more, tokens, y);
  });
}

namespace {

/// Launches a kernel that keeps a row in shared memory, a block a row. `of` gives it for an element's type and the
/// elements of a load.
template <typename Kernel, typename... Args>
void launch_turned_rows(const RowView& x, StreamHandle stream, const Kernel& of, const Args&... args) {
  const auto blocks = static_cast<unsigned>(x.rows());
  const std::size_t shared = static_cast<std::size_t>(x.width) * sizeof(float);
  with_float_type(x.number, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = 16 / sizeof(T);
    const auto kernel = takes_packs(x) ? of(type, Constant<kPack>{}) : of(type, Constant<1>{});
    launch(kernel, blocks, kBlock, shared, stream, x, args...);
  });
}

void set_to_zero(std::uint32_t* bits, StreamHandle stream) {
  View one;
  one.data = bits;
  one.number = Number::s32;
  fill(one, 0, stream);
}

}  // namespace

void quantize_rows(const RowView& x, const float* factors, std::int64_t parts, const QuantizedRows& to,
                   StreamHandle stream) {
  const auto into = [&](auto* values) {
    using Quantized = std::remove_pointer_t<decltype(values)>;
    launch_turned_rows(
        x, stream,
        [](auto type, auto pack) { return quantize_rows_kernel<decltype(type), decltype(pack)::kValue, Quantized>; },
        factors, parts, to.largest, values, to.scales);
  };
  if (to.e4m3)
    into(static_cast<E4m3*>(to.values));
  else
    into(static_cast<std::int8_t*>(to.values));
}

void largest_magnitude(const RowView& x, const float* factors, std::int64_t parts, std::uint32_t* bits,
                       StreamHandle stream) {
  set_to_zero(bits, stream);
  launch_turned_rows(
      x, stream, [](auto type, auto pack) { return largest_magnitude_kernel<decltype(type), decltype(pack)::kValue>; },
      factors, parts, bits);
}

void turn_rows(const RowView& x, const float* factors, std::int64_t parts, void* turned, StreamHandle stream) {
  launch_turned_rows(
      x, stream, [](auto type, auto pack) { return turn_rows_kernel<decltype(type), decltype(pack)::kValue>; }, factors,
      parts, turned);
}

void dequantize_weight(const void* values, bool halves, const float* scales, std::int64_t count, std::int64_t group,
                       void* weight, Number number, StreamHandle stream) {
  with_float_type(number, [&](auto type) {
    using T = decltype(type);
    const auto kernel = halves ? dequantize_weight_kernel<T, true> : dequantize_weight_kernel<T, false>;
    launch(kernel, blocks_for(count / 2), kBlock, 0, stream, static_cast<const std::uint8_t*>(values), scales, count,
           group, static_cast<T*>(weight));
  });
}

void dequantize(const QuantizedSums& product, const RowView& y, StreamHandle stream) {
  const auto from = [&](const auto* sums) {
    using Sum = std::remove_cv_t<std::remove_pointer_t<decltype(sums)>>;
    with_packs(y.number, takes_packs(y), [&](auto type, auto pack) {
      constexpr int kPack = decltype(pack)::kValue;
      launch(dequantize_kernel<Sum, decltype(type), kPack>, pack_blocks(y, kPack), kBlock, 0, stream, sums,
             product.row_scales, product.column_scales, product.bias, product.activation.has_value(),
             product.activation.value_or(Activation::relu), y);
    });
  };
  if (product.number == Number::f32)
    from(static_cast<const float*>(product.sums));
  else
    from(static_cast<const std::int32_t*>(product.sums));
}

void activate(Activation kind, const RowView& x, const RowView& y, StreamHandle stream) {
  with_packs(x.number, takes_packs(x) && takes_packs(y), [&](auto type, auto pack) {
    constexpr int kPack = decltype(pack)::kValue;
    launch(activate_kernel<decltype(type), kPack>, pack_blocks(x, kPack), kBlock, 0, stream, kind, x, y);
  });
}

void swiglu(const RowView& x, const RowView& y, StreamHandle stream) {
  with_packs(x.number, takes_packs(x) && takes_packs(y), [&](auto type, auto pack) {
    constexpr int kPack = decltype(pack)::kValue;
    launch(swiglu_kernel<decltype(type), kPack>, pack_blocks(y, kPack), kBlock, 0, stream, x, y);
  });
}

void combine(Binary kind, const View& a, const View& b, const View& y, StreamHandle stream) {
  const auto left = as_rows(a);
  const auto right = as_rows(b);
  const auto to = as_rows(y);
  const bool by_rows = left && right && to && left->width == to->width && right->width == to->width &&
                       takes_packs(*left) && takes_packs(*right) && takes_packs(*to);
  with_float_type(y.number, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = 16 / sizeof(T);
    if (by_rows) {
      launch(combine_rows_kernel<T, kPack>, pack_blocks(*to, kPack), kBlock, 0, stream, kind, *left, *right, *to);
    } else {
      launch(combine_kernel<T>, blocks_for(count_of(y)), kBlock, 0, stream, kind, a, b, y);
    }
  });
}

void copy(const View& from, const View& to, StreamHandle stream) {
  const unsigned blocks = blocks_for(count_of(to));
  if (from.number == to.number) {
    const auto source = as_rows(from);
    const auto target = as_rows(to);
    const bool by_rows =
        source && target && source->width == target->width && takes_packs(*source) && takes_packs(*target);
    const auto move = [&](auto bits) {
      using Bits = decltype(bits);
      constexpr int kPack = 16 / sizeof(Bits);
      if (by_rows) {
        launch(copy_rows_kernel<Bits>, pack_blocks(*target, kPack), kBlock, 0, stream, *source, *target);
      } else {
        launch(copy_kernel<Bits>, blocks, kBlock, 0, stream, from, to);
      }
    };
    switch (bytes_of(to.number)) {
      case 1: return move(std::uint8_t{});
      case 2: return move(std::uint16_t{});
      case 4: return move(std::uint32_t{});
      default: return move(std::uint64_t{});
    }
  }
  with_type(from.number, [&](auto source) {
    with_float_type(to.number, [&](auto target) {
      launch(convert_kernel<decltype(source), decltype(target)>, blocks, kBlock, 0, stream, from, to);
    });
  });
}

void fill(const View& to, float value, StreamHandle stream) {
  with_type(to.number, [&](auto type) {
    launch(fill_kernel<decltype(type)>, blocks_for(count_of(to)), kBlock, 0, stream, to, value);
  });
}

void embed(const View& ids, const RowView& table, const RowView& y, StreamHandle stream) {
  with_float_type(y.number, [&](auto type) {
    launch(embed_kernel<decltype(type)>, blocks_for(y.rows() * y.width), kBlock, 0, stream, ids, table, y);
  });
}

void select_rows(const View& x, const View& index, const RowView& y, StreamHandle stream) {
  with_float_type(y.number, [&](auto type) {
    launch(select_rows_kernel<decltype(type)>, blocks_for(y.rows() * y.width), kBlock, 0, stream, x, index, y);
  });
}

void position_bias(const RowView& table, const std::int32_t* buckets, std::int64_t length, const View& y,
                   StreamHandle stream) {
  with_float_type(table.number, [&](auto type) {
    launch(position_bias_kernel<decltype(type)>, blocks_for(count_of(y)), kBlock, 0, stream, table, buckets, length, y);
  });
}

void sinusoid(const float* t, const float* frequencies, std::int64_t half, const RowView& y, StreamHandle stream) {
  with_float_type(y.number, [&](auto type) {
    launch(sinusoid_kernel<decltype(type)>, blocks_for(y.rows() * half), kBlock, 0, stream, t, frequencies, half, y);
  });
}

void group_norm(const RowView& x, std::int64_t groups, const Vector& weight, const Vector& bias, float eps,
                const RowView& y, float* moments, StreamHandle stream) {
  // The outermost axis that x uses is its batch.
  const std::int64_t positions = x.rows() / x.extent[0];
  with_float_type(x.number, [&](auto type) {
    using T = decltype(type);
    launch(group_moments_kernel<T>, static_cast<unsigned>(x.extent[0] * groups), kBlock, 0, stream, x, positions,
           groups, false, eps, moments);
    launch(group_norm_kernel<T>, blocks_for(x.rows() * x.width), kBlock, 0, stream, x, positions, groups, weight, bias,
           static_cast<const float*>(moments), y);
  });
}

void group_moments(const RowView& x, std::int64_t groups, float* moments, StreamHandle stream) {
  const std::int64_t positions = x.rows() / x.extent[0];
  with_float_type(x.number, [&](auto type) {
    launch(group_moments_kernel<decltype(type)>, static_cast<unsigned>(x.extent[0] * groups), kBlock, 0, stream, x,
           positions, groups, true, 0, moments);
  });
}

void group_norm_by_moments(const RowView& x, std::int64_t groups, const float* parts, const PartCounts& counts,
                           const Vector& weight, const Vector& bias, float eps, const RowView& y, float* joined,
                           StreamHandle stream) {
  const std::int64_t pairs = x.extent[0] * groups;
  launch(join_moments_kernel, blocks_for(pairs), kBlock, 0, stream, parts, counts, pairs, eps, joined);
  with_float_type(x.number, [&](auto type) {
    launch(group_norm_kernel<decltype(type)>, blocks_for(x.rows() * x.width), kBlock, 0, stream, x,
           x.rows() / x.extent[0], groups, weight, bias, static_cast<const float*>(joined), y);
  });
}

void attend(const AttentionLaunch& call, StreamHandle stream) {
  constexpr int kAxis = View::kAxes - 4;
  const auto& q = call.query.extent;
  const std::int64_t width = q[kAxis + 3];
  const std::int64_t value_width = call.value.extent[kAxis + 3];
  const std::int64_t pitch = (width > value_width ? width : value_width) + 1;
  const std::size_t shared = static_cast<std::size_t>(kQueries + 2 * kKeys) * pitch * sizeof(float);
  const auto blocks = static_cast<unsigned>((q[kAxis + 1] + kQueries - 1) / kQueries * q[kAxis] * q[kAxis + 2]);
  with_float_type(call.query.number, [&](auto type) {
    launch(attention_kernel<decltype(type)>, blocks, kAttentionWarps * kWarp, shared, stream, call);
  });
}

void attend_on_tensor_cores(const AttentionLaunch& call, StreamHandle stream) {
  constexpr int kAxis = View::kAxes - 4;
  const auto& q = call.query.extent;
  const std::int64_t width = std::max(q[kAxis + 3], call.value.extent[kAxis + 3]);
  const auto blocks = static_cast<unsigned>((q[kAxis + 1] + kMmaQueries - 1) / kMmaQueries * q[kAxis] * q[kAxis + 2]);
  const auto with_width = [&](auto padded) {
    constexpr int kPadded = decltype(padded)::kValue;
    const bool masked = call.mask.data != nullptr;
    const auto of_type = [&](auto type) {
      using T = decltype(type);
      return masked ? attention_mma_kernel<T, kPadded, true> : attention_mma_kernel<T, kPadded, false>;
    };
    const auto kernel = call.query.number == Number::bf16 ? of_type(Bf16{}) : of_type(F16{});
    launch(kernel, blocks, kMmaWarps * kWarp, MmaTile<kPadded>::kSharedBytes, stream, call);
  };
  if (width <= 64) return with_width(Constant<64>{});
  if (width <= 128) return with_width(Constant<128>{});
  with_width(Constant<256>{});
}

namespace {

/// Calls visit with how many columns of a head's row a lane has.
template <typename Visit>
void with_own_columns(std::int64_t width, const Visit& visit) {
  if (width <= kWarp) return visit(Constant<1>{});
  if (width <= 2 * kWarp) return visit(Constant<2>{});
  if (width <= 4 * kWarp) return visit(Constant<4>{});
  visit(Constant<8>{});
}

}  // namespace

void largest_of_heads(const RowView& x, const HeadChange& change, std::uint32_t* bits, StreamHandle stream) {
  set_to_zero(bits, stream);
  with_float_type(x.number, [&](auto type) {
    with_own_columns(x.width, [&](auto own) {
      launch(largest_of_heads_kernel<decltype(type), decltype(own)::kValue>, row_blocks<kWarp>(x.rows()),
             row_threads(kWarp), 0, stream, x, change, bits);
    });
  });
}

void quantize_heads(const RowView& x, const HeadChange& change, const std::uint32_t* bits, void* values, float* scale,
                    float* inverse_scale, StreamHandle stream) {
  with_float_type(x.number, [&](auto type) {
    with_own_columns(x.width, [&](auto own) {
      launch(quantize_heads_kernel<decltype(type), decltype(own)::kValue>, row_blocks<kWarp>(x.rows()),
             row_threads(kWarp), 0, stream, x, change, bits, static_cast<E4m3*>(values), scale, inverse_scale);
    });
  });
}

void head_means(const RowView& x, float* means, StreamHandle stream) {
  const auto heads = static_cast<unsigned>(x.rows() / x.extent[RowView::kAxes - 2]);
  with_float_type(x.number, [&](auto type) {
    with_own_columns(x.width, [&](auto own) {
      constexpr int kOwnColumns = decltype(own)::kValue;
      launch(head_means_kernel<decltype(type), kOwnColumns>, heads, kBlock, kOwnColumns * kBlock * sizeof(float),
             stream, x, means);
    });
  });
}

void widen_e4m3(const void* values, const float* scale, const RowView& y, StreamHandle stream) {
  with_float_type(y.number, [&](auto type) {
    launch(e4m3_rows_kernel<decltype(type)>, blocks_for(y.rows() * y.width), kBlock, 0, stream,
           static_cast<const E4m3*>(values), scale, y);
  });
}

void write_sequences(const PackedSequences& sequences, std::int32_t* lengths, std::int64_t* begins,
                     StreamHandle stream) {
  launch(write_sequences_kernel, 1, kBlock, 0, stream, sequences, lengths, begins);
}

void merge_attention(const MergeLaunch& call, StreamHandle stream) {
  const std::int64_t elements = call.output.rows() * call.output.width;
  with_float_type(call.output.number, [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = 4;
    if (takes_packs(call.a) && takes_packs(call.b)) {
      launch(merge_attention_kernel<T, kPack>, blocks_for(elements / kPack), kBlock, 0, stream, call);
    } else {
      launch(merge_attention_kernel<T, 1>, blocks_for(elements), kBlock, 0, stream, call);
    }
  });
}

void rows_to_wire(const RowView& x, const WireParts& parts, std::int8_t* wire, StreamHandle stream) {
  with_float_type(x.number, [&](auto type) {
    launch(rows_to_wire_kernel<decltype(type)>, row_blocks<kWarp>(x.rows() * parts.count), row_threads(kWarp), 0,
           stream, x, parts, wire);
  });
}

void rows_from_wire(const std::int8_t* wire, const WireParts& parts, const RowView& y, StreamHandle stream) {
  with_float_type(y.number, [&](auto type) {
    launch(rows_from_wire_kernel<decltype(type)>, row_blocks<kWarp>(y.rows() * parts.count), row_threads(kWarp), 0,
           stream, wire, parts, y);
  });
}

}  // namespace rondo::cuda
