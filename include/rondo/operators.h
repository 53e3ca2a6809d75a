// The operators around a diffusion transformer's attention, fused, on tensors and without a graph.
//
// Everywhere: float32, bfloat16 or float16 in and out, arithmetic in float32; any strides, without a copy where the
// last axis is dense; the result is new and dense. Throws InvalidArgument, naming what was given and what is allowed.
#pragma once

#include <cstdint>

#include "rondo/export.h"
#include "rondo/tensor.h"

namespace rondo RONDO_PUBLIC {

struct OperatorOptions {
  /// False: the plain reference in float64.
  bool fused = true;
  /// 0: RONDO_THREADS, else OMP_NUM_THREADS, else physical cores. At most those that OpenMP gives.
  int threads = 0;
};

/// Which elements a rotation pairs: i with i + D / 2 (GPT-NeoX), or 2i with 2i + 1 (FLUX).
enum class RotaryMode : std::uint8_t { half, interleaved };

/// Rotary position embedding (Su et al., 2021). x [B, S, N, D] or, with `head_first`, [B, N, S, D]; D is even. `cos`
/// and `sin`: [S, D], or four axes of which one has the extent of x's token axis and the others but the last are 1: [1,
/// S, 1, D], [1, 1, S, D], and [S, 1, 1, D] for x [S, B, N, D]; there the axis says where x has its tokens. Their last
/// axis may also be D / 2: one value for both of a pair. -> x * cos + turned(x) * sin, where turned() swaps each pair
/// and negates its first.
Tensor rotary_position_embedding(const Tensor& x, const Tensor& cos, const Tensor& sin,
                                 RotaryMode mode = RotaryMode::half, bool head_first = false,
                                 const OperatorOptions& options = {});

/// x [..., D], weight [D] (may be undefined) -> x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019).
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-6, const OperatorOptions& options = {});

/// x [..., D], weight [D] and bias [D] (each may be undefined) -> (x - mean) / sqrt(variance + eps) * weight + bias.
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5,
                  const OperatorOptions& options = {});

/// layer_norm(x) * (1 + scale) + shift, the adaptive norm of DiT (Peebles and Xie, 2022). x [B, S, D]; scale and shift
/// [B, D], [B, 1, D] or [B, S, D].
Tensor layernorm_scale_shift(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& weight = {},
                             const Tensor& bias = {}, double eps = 1e-5, const OperatorOptions& options = {});

/// x + y * gate. x and y [B, S, D]; gate [B, D], [B, 1, D] or [B, S, D].
Tensor residual_gate_add(const Tensor& x, const Tensor& y, const Tensor& gate, const OperatorOptions& options = {});

struct NormedSum {
  Tensor normed;
  Tensor sum;
};

/// sum = x + residual, normed = rms_norm(sum, weight, eps), in one pass. The norm takes the sum before it is rounded to
/// x's dtype.
NormedSum add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight = {}, double eps = 1e-6,
                       const OperatorOptions& options = {});

struct QueryKey {
  Tensor query;
  Tensor key;
};

/// rotary_position_embedding(rms_norm(...)) of query [B, S, N, D] and key [B, S, Nk, D] (tokens and heads exchanged
/// with `head_first`), each in one pass. Weights [D] may be undefined; tables as in rotary_position_embedding.
QueryKey qk_norm_rope(const Tensor& query, const Tensor& key, const Tensor& query_weight, const Tensor& key_weight,
                      const Tensor& cos, const Tensor& sin, RotaryMode mode = RotaryMode::interleaved,
                      bool head_first = false, double eps = 1e-6, const OperatorOptions& options = {});

/// gelu_erf: 0.5 x (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel, 2016); gelu_tanh: 0.5 x (1 + tanh(sqrt(2 / pi) (x +
/// 0.044715 x^3))); quick_gelu: x sigmoid(1.702 x); silu: x sigmoid(x); mish: x tanh(log(1 + exp(x))) (Misra, 2019).
enum class ActivationKind : std::uint8_t { gelu_erf, gelu_tanh, quick_gelu, silu, mish, relu };

/// x of any shape -> the same shape.
Tensor activation(const Tensor& x, ActivationKind kind, const OperatorOptions& options = {});

/// x [..., 2 F] = [hidden, gate] -> hidden * silu(gate), [..., F] (Shazeer, 2020).
Tensor swiglu(const Tensor& x, const OperatorOptions& options = {});

}  // namespace RONDO_PUBLIC
