// What the host asks of CUDA kernels: plain structures and one function a kernel. All work is given to a stream
// (a cudaStream_t). Sizes and strides are in elements unless it says bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace rondo::cuda {

using StreamHandle = void*;

enum class Number : std::int32_t { f32, f16, bf16, s8, u8, s32, s64, boolean };

/// Up to six axes, outermost first; those that are not there have an extent of 1.
struct View {
  static constexpr int kAxes = 6;
  void* data = nullptr;
  Number number = Number::f32;
  std::array<std::int64_t, kAxes> extent{1, 1, 1, 1, 1, 1};
  std::array<std::int64_t, kAxes> stride{};
};

/// A tensor's rows: its last axis, dense, and where each begins.
struct RowView {
  static constexpr int kAxes = 4;  // before the last
  void* data = nullptr;
  Number number = Number::f32;
  std::int64_t width = 0;
  std::array<std::int64_t, kAxes> extent{1, 1, 1, 1};
  std::array<std::int64_t, kAxes> stride{};
  /// Elements from a row to the next, where all are equally far apart; else 0. Saves four divisions a row.
  std::int64_t spacing = 0;

  constexpr std::int64_t rows() const { return extent[0] * extent[1] * extent[2] * extent[3]; }
  /// Once extents and strides are known.
  constexpr void find_spacing() {
    spacing = 0;
    std::int64_t inner = 0;  // rows of the axes behind
    for (int axis = kAxes - 1; axis >= 0; --axis) {
      if (extent[axis] == 1) continue;
      if (inner == 0) {
        spacing = stride[axis];
        inner = 1;
      }
      if (stride[axis] != spacing * inner) {
        spacing = 0;
        return;
      }
      inner *= extent[axis];
    }
    if (inner == 0) spacing = width;  // one row
  }
};

/// A vector of parameters, or null.
struct Vector {
  const void* data = nullptr;
  Number number = Number::f32;
};

/// A modulation of x [B, S, D]: its row for batch b and token s begins at b * batch_stride + s * token_stride.
struct Modulation {
  const void* data = nullptr;
  Number number = Number::f32;
  std::int64_t batch_stride = 0;
  std::int64_t token_stride = 0;
};

/// The longest row that a norm keeps in registers.
constexpr std::int64_t kWidestNorm = 8192;

/// x / sqrt(mean(x^2) + eps) * weight. With `residual` (data not null) of x + residual, which goes to `sum`.
void rms_norm(const RowView& x, const RowView& residual, const Vector& weight, float eps, const RowView& y,
              const RowView& sum, StreamHandle stream);

/// (x - mean) / sqrt(variance + eps) * weight + bias, then * (1 + scale) + shift where they are given. Rows are
/// [B, S], tokens innermost, `tokens` of them a batch.
void layer_norm(const RowView& x, const Vector& weight, const Vector& bias, const Modulation& scale,
                const Modulation& shift, std::int64_t tokens, float eps, const RowView& y, StreamHandle stream);

/// x * (1 + scale) + shift, or, with `gate`, x + gate * more.
void modulate(const RowView& x, const Modulation& scale, const Modulation& shift, std::int64_t tokens, const RowView& y,
              StreamHandle stream);
void gated_add(const RowView& x, const Modulation& gate, const RowView& more, std::int64_t tokens, const RowView& y,
               StreamHandle stream);

/// Tables of cosines and sines for S tokens, of `width` D or D / 2.
struct RotaryTables {
  Vector cos;
  Vector sin;
  std::int64_t width = 0;
  std::int64_t stride = 0;  // between tokens
  bool interleaved = true;
};

/// x [B, S, N, D], rotated; with `norms`, RMS-normed first.
void rotate(const RowView& x, const RotaryTables& tables, bool norms, const Vector& weight, float eps, const RowView& y,
            StreamHandle stream);

enum class Activation : std::int32_t { gelu_tanh, gelu_erf, quick_gelu, silu, mish, relu };

/// The widest row that is quantised: it lies in shared memory.
constexpr std::int64_t kWidestQuantized = 24576;

/// Where rows in 8 bits go, dense, and a scale for each.
struct QuantizedRows {
  void* values = nullptr;
  bool e4m3 = false;  // up to 448; else integers up to 127
  float* scales = nullptr;
  /// The bits of what becomes the largest; null: of each row its own.
  const std::uint32_t* largest = nullptr;
};

/// Each row of x times `factors` (null: 1), then elements i, i + width / parts, ... turned together by a normalised
/// Walsh-Hadamard matrix of size `parts`, then in 8 bits times a scale.
void quantize_rows(const RowView& x, const float* factors, std::int64_t parts, const QuantizedRows& to,
                   StreamHandle stream);
/// The bits of the largest magnitude of all rows after they were turned.
void largest_magnitude(const RowView& x, const float* factors, std::int64_t parts, std::uint32_t* bits,
                       StreamHandle stream);

/// Rows turned only, as x's numbers in dense rows.
void turn_rows(const RowView& x, const float* factors, std::int64_t parts, void* turned, StreamHandle stream);
/// `count` integers, an even number, of which each `group` have a scale: int8, or with `halves` int4, two a byte, the
/// even one in the low half. To a floating dtype.
void dequantize_weight(const void* values, bool halves, const float* scales, std::int64_t count, std::int64_t group,
                       void* weight, Number number, StreamHandle stream);

/// Sums of products of 8 bits [rows, width] and what they are to be multiplied by: a scale a row and a scale a column.
struct QuantizedSums {
  const void* sums = nullptr;
  Number number = Number::s32;  // or f32
  const float* row_scales = nullptr;
  const float* column_scales = nullptr;
  Vector bias;
  std::optional<Activation> activation;
};
void dequantize(const QuantizedSums& product, const RowView& y, StreamHandle stream);

void activate(Activation kind, const RowView& x, const RowView& y, StreamHandle stream);
/// [hidden, gate] -> hidden * silu(gate)
void swiglu(const RowView& x, const RowView& y, StreamHandle stream);

enum class Binary : std::int32_t { add, multiply };

/// b repeats along a's leading axes, which its view says by strides of 0.
void combine(Binary kind, const View& a, const View& b, const View& y, StreamHandle stream);

/// Also to another dtype; `from` repeats where its strides are 0.
void copy(const View& from, const View& to, StreamHandle stream);
void fill(const View& to, float value, StreamHandle stream);

/// y [count, width] = table[ids], ids clamped to [0, rows).
void embed(const View& ids, const RowView& table, const RowView& y, StreamHandle stream);
/// y [B, D] = x [B, index[b], D], clamped.
void select_rows(const View& x, const View& index, const RowView& y, StreamHandle stream);
/// y [1, H, S, S] float32 = table[bucket[query, key], head]
void position_bias(const RowView& table, const std::int32_t* buckets, std::int64_t length, const View& y,
                   StreamHandle stream);
/// y [B, 2 half] = cos(t * f), sin(t * f)
void sinusoid(const float* t, const float* frequencies, std::int64_t half, const RowView& y, StreamHandle stream);

/// Channels-last pictures [B, P, C], in groups of channels.
void group_norm(const RowView& x, std::int64_t groups, const Vector& weight, const Vector& bias, float eps,
                const RowView& y, float* moments, StreamHandle stream);

/// Its halves, for pictures whose rows lie on several ranks (ops/group_moments.h): the (mean, variance) of one part,
/// and the norm by those of all, [parts, B, groups, 2]; `joined` is room for [B, groups, 2].
void group_moments(const RowView& x, std::int64_t groups, float* moments, StreamHandle stream);

struct PartCounts {
  static constexpr int kMost = 64;
  int count = 0;
  std::array<std::int64_t, kMost> positions{};
};
void group_norm_by_moments(const RowView& x, std::int64_t groups, const float* parts, const PartCounts& counts,
                           const Vector& weight, const Vector& bias, float eps, const RowView& y, float* joined,
                           StreamHandle stream);

/// The widest head that kernels of attention take.
constexpr std::int64_t kWidestHead = 256;

struct AttentionLaunch {
  View query;  // [B, Sq, N, D], dense in D
  View key;    // [B, Sk, Nk, D]
  View value;  // [B, Sk, Nk, Dv]
  View mask;   // [B, N, Sq, Sk] with strides of 0 where it repeats; data null: none
  View output;
  float* lse = nullptr;  // [B, N, Sq] by these strides, or null
  std::int64_t lse_batch_stride = 0;
  std::int64_t lse_head_stride = 0;
  float scale = 1;
  bool causal = false;
};

/// What becomes of a head's row before it is quantised: its head's mean is taken from it, it is turned as
/// rotate_head() does (attention/quantized_attention.h), for which its width is a power of two from 32 on.
struct HeadChange {
  const float* means = nullptr;  // [B, N, D]
  bool rotates = false;
  std::array<std::uint32_t, kWidestHead / 32> signs{};  // a bit a column: negative
};

/// Of x [B, S, N, D], head dims up to kWidestHead: the bits of the largest magnitude; all rows in e4m3, dense, by it,
/// with the one scale and, where it is asked for, its inverse; the means of heads [B, N, D].
void largest_of_heads(const RowView& x, const HeadChange& change, std::uint32_t* bits, StreamHandle stream);
void quantize_heads(const RowView& x, const HeadChange& change, const std::uint32_t* bits, void* values, float* scale,
                    float* inverse_scale, StreamHandle stream);
void head_means(const RowView& x, float* means, StreamHandle stream);
/// Rows in e4m3, dense, times their scale.
void widen_e4m3(const void* values, const float* scale, const RowView& y, StreamHandle stream);

/// Packed sequences, in tokens; where they begin with the end behind the last. `strides`: elements between tokens of
/// queries, keys, values and outputs.
struct PackedSequences {
  static constexpr int kMost = 160;  // what a launch's parameters hold
  int count = 0;
  std::array<std::int32_t, kMost> queries{};
  std::array<std::int32_t, kMost> keys{};
  std::array<std::int32_t, kMost + 1> query_begins{};
  std::array<std::int32_t, kMost + 1> key_begins{};
  std::array<std::int64_t, 4> strides{};
};
/// To the device, as SdpaSequences has it: lengths [2][kMost] and beginnings [4][kBegins], in elements.
constexpr int kBegins = PackedSequences::kMost + 2;  // each part on 16 bytes
void write_sequences(const PackedSequences& sequences, std::int32_t* lengths, std::int64_t* begins,
                     StreamHandle stream);

/// Attention over two disjoint sets of keys, from what each gave: a and b [B, S, N, D] float32, `tokens` S, their LSE
/// and the union's [B, N, S], dense.
struct MergeLaunch {
  RowView a;
  const float* a_lse = nullptr;
  RowView b;
  const float* b_lse = nullptr;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  RowView output;
  float* lse = nullptr;  // neither of the others
};
void merge_attention(const MergeLaunch& call, StreamHandle stream);

/// What a row on its way is cut into; each part has a scale.
struct WireParts {
  static constexpr int kMost = 4;
  int count = 0;
  std::array<std::int64_t, kMost> width{};
};

/// Rows there and back (ops/wire_rows.h); those on their way are dense.
void rows_to_wire(const RowView& x, const WireParts& parts, std::int8_t* wire, StreamHandle stream);
void rows_from_wire(const std::int8_t* wire, const WireParts& parts, const RowView& y, StreamHandle stream);

/// Head dims up to kWidestHead. A query that sees nothing gives 0 and -infinity.
void attend(const AttentionLaunch& call, StreamHandle stream);
/// The same on tensor cores: bfloat16 and float16; widths and strides of query, key and value in multiples of 8, which
/// begin on 16 bytes.
void attend_on_tensor_cores(const AttentionLaunch& call, StreamHandle stream);

}  // namespace rondo::cuda
