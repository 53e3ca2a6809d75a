"""The operators around a diffusion transformer's attention, each fused into one pass over memory.

All take torch tensors (float32, bfloat16, float16) or NumPy arrays (float32, float16) on the CPU, strided as they come, and return new
dense ones of the same kind and dtype; arithmetic is float32. ``fused=False`` computes the plain reference in float64.
``threads`` is RONDO_THREADS, else torch's count for torch tensors, else OMP_NUM_THREADS, else the physical cores, when it
is not given. Raises ValueError for shapes that do not fit, TypeError for what is no array or has another dtype,
RuntimeError for a tensor that requires grad while grad is on.
"""

from __future__ import annotations

from typing import Any, Optional, TypeVar

from rondo import _rondo
from rondo._arrays import Operands, switch

Array = TypeVar("Array")


def rotary_position_embedding(
    x: Array,
    cos: Any,
    sin: Any,
    rotated_mode: str = "rotated_half",
    head_first: bool = False,
    fused: bool = True,
    *,
    threads: Optional[int] = None,
) -> Array:
    """x * cos + turned(x) * sin (Su et al., 2021); turned() swaps each pair of elements and negates its first.

    x: [B, S, N, D], with ``head_first`` [B, N, S, D]; D is even.
    cos, sin: [S, D], or four axes: [1, S, 1, D], [1, 1, S, D], or [S, 1, 1, D] for x [S, B, N, D]; a four-axis table says
        itself where x has its tokens. The last axis may also be D / 2: one value for both elements of a pair.
    rotated_mode: "rotated_half" pairs i with i + D / 2, "rotated_interleaved" 2i with 2i + 1.
    """
    function = "rotary_position_embedding"
    head_first, fused = switch(function, "head_first", head_first), switch(function, "fused", fused)
    operands = Operands(function, x=x, cos=cos, sin=sin)
    return operands.take(
        _rondo.rotary_position_embedding(
            operands["x"], operands["cos"], operands["sin"], rotated_mode, head_first, fused, operands.thread_count(threads)
        )
    )


def rms_norm(
    x: Array, weight: Any = None, eps: float = 1e-6, *, fused: bool = True, threads: Optional[int] = None
) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 2019). x: [..., D]; weight: [D]."""
    operands = Operands("rms_norm", x=x, weight=weight)
    return operands.take(_rondo.rms_norm(operands["x"], operands["weight"], eps, fused, operands.thread_count(threads)))


def layer_norm(
    x: Array,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    fused: bool = True,
    threads: Optional[int] = None,
) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. x: [..., D]; weight, bias: [D]."""
    operands = Operands("layer_norm", x=x, weight=weight, bias=bias)
    return operands.take(
        _rondo.layer_norm(operands["x"], operands["weight"], operands["bias"], eps, fused, operands.thread_count(threads))
    )


def layernorm_scale_shift(
    layernorm: Any, x: Array, scale: Any, shift: Any, fused: bool = True, *, threads: Optional[int] = None
) -> Array:
    """layernorm(x) * (1 + scale) + shift, the adaptive norm of DiT (Peebles and Xie, 2022).

    layernorm: a torch.nn.LayerNorm over the last axis, or any object with ``weight``, ``bias`` (each [D] or None) and
        ``eps``.
    x: [B, S, D]; scale, shift: [B, D], [B, 1, D] or [B, S, D].
    """
    function = "layernorm_scale_shift"
    missing = [name for name in ("weight", "bias", "eps") if not hasattr(layernorm, name)]
    if missing:
        raise TypeError(f"{function}: {type(layernorm).__name__} has no {', '.join(missing)}; a LayerNorm is needed")
    normed = tuple(getattr(layernorm, "normalized_shape", (x.shape[-1],)))
    if normed != (x.shape[-1],):
        raise ValueError(f"{function}: the norm is over {normed}; allowed is the last axis of x, ({x.shape[-1]},)")
    operands = Operands(function, x=x, scale=scale, shift=shift, weight=layernorm.weight, bias=layernorm.bias)
    return operands.take(
        _rondo.layernorm_scale_shift(
            *(operands[name] for name in ("x", "scale", "shift", "weight", "bias")),
            layernorm.eps, fused, operands.thread_count(threads),
        )
    )  # fmt: skip


def residual_gate_add(
    x: Array, y: Any, gate: Any, *, fused: bool = True, threads: Optional[int] = None
) -> Array:
    """x + y * gate. x, y: [B, S, D]; gate: [B, D], [B, 1, D] or [B, S, D]."""
    operands = Operands("residual_gate_add", x=x, y=y, gate=gate)
    return operands.take(
        _rondo.residual_gate_add(operands["x"], operands["y"], operands["gate"], fused, operands.thread_count(threads))
    )


def add_rms_norm(
    x: Array,
    residual: Any,
    weight: Any = None,
    eps: float = 1e-6,
    *,
    fused: bool = True,
    threads: Optional[int] = None,
) -> tuple[Array, Array]:
    """(rms_norm(x + residual, weight, eps), x + residual) in one pass. x, residual: [..., D]; weight: [D]."""
    operands = Operands("add_rms_norm", x=x, residual=residual, weight=weight)
    normed, total = _rondo.add_rms_norm(
        operands["x"], operands["residual"], operands["weight"], eps, fused, operands.thread_count(threads)
    )
    return operands.take(normed), operands.take(total)


def qk_norm_rope(
    query: Array,
    key: Any,
    query_weight: Any,
    key_weight: Any,
    cos: Any,
    sin: Any,
    *,
    eps: float = 1e-6,
    rotated_mode: str = "rotated_interleaved",
    head_first: bool = False,
    fused: bool = True,
    threads: Optional[int] = None,
) -> tuple[Array, Array]:
    """rotary_position_embedding(rms_norm(...)) of query and key, each in one pass.

    query: [B, S, N, D]; key: [B, S, Nk, D] (tokens and heads exchanged with ``head_first``); weights: [D] or None;
    cos, sin as in rotary_position_embedding.
    """
    function = "qk_norm_rope"
    head_first, fused = switch(function, "head_first", head_first), switch(function, "fused", fused)
    operands = Operands(
        function, query=query, key=key, query_weight=query_weight, key_weight=key_weight, cos=cos, sin=sin
    )
    names = ("query", "key", "query_weight", "key_weight", "cos", "sin")
    q, k = _rondo.qk_norm_rope(
        *(operands[name] for name in names), rotated_mode, head_first, eps, fused, operands.thread_count(threads)
    )
    return operands.take(q), operands.take(k)


def activation(x: Array, act_type: str, *, fused: bool = True, threads: Optional[int] = None) -> Array:
    """gelu, gelu-tanh, gelu-fast (x sigmoid(1.702 x)), silu (or swish), mish or relu of x, of any shape."""
    if not isinstance(act_type, str):
        raise TypeError(f"activation: act_type {act_type!r} is given; a name is needed")
    operands = Operands("activation", x=x)
    return operands.take(_rondo.activation(operands["x"], act_type.lower(), fused, operands.thread_count(threads)))


def swiglu(x: Array, *, fused: bool = True, threads: Optional[int] = None) -> Array:
    """hidden * silu(gate) for x = [hidden, gate] along the last axis: [..., 2 F] -> [..., F] (Shazeer, 2020)."""
    operands = Operands("swiglu", x=x)
    return operands.take(_rondo.swiglu(operands["x"], fused, operands.thread_count(threads)))
