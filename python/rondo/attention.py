"""Attention with the signatures of MindIE-SD and flash-attn, on the CPU's fastest kernel."""

from __future__ import annotations

from typing import Any, Optional

from rondo import _rondo
from rondo._arrays import Operands, switch

# Kernels of MindIE-SD that exist on its devices only: here each stands for the fastest kernel there is.
_FOREIGN_KERNELS = ("prompt_flash_attn", "fused_attn_score", "ascend_laser_attention")
_LAYOUTS = ("BSND", "BNSD", "BSH")
_MODES = ("runtime", "static", "manual")


def _choose_layout(function: str, head_first: bool, input_layout: Optional[str]) -> str:
    if input_layout is None:
        return "BNSD" if head_first else "BSND"
    if input_layout not in _LAYOUTS:
        raise ValueError(f"{function}: input_layout '{input_layout}' is given; allowed are {', '.join(_LAYOUTS)}")
    if head_first and input_layout != "BNSD":
        raise ValueError(f"{function}: head_first=True means BNSD, but input_layout is '{input_layout}'")
    return input_layout


def _choose_backend(
    function: str, fused: bool, opt_mode: str, op_type: Optional[str], backend: Optional[str]
) -> tuple[str, str]:
    """How the kernel is chosen, and its name or nothing."""
    if opt_mode not in _MODES:
        raise ValueError(f"{function}: opt_mode '{opt_mode}' is given; allowed are {', '.join(_MODES)}")
    if op_type is not None and backend is not None and op_type != backend:
        raise ValueError(f"{function}: op_type '{op_type}' and backend '{backend}' name different kernels")
    if op_type is not None and opt_mode != "manual":
        raise ValueError(f"{function}: op_type '{op_type}' is given; it is read with opt_mode='manual' only")
    if opt_mode == "manual" and op_type is None and backend is None:
        raise ValueError(f"{function}: opt_mode 'manual' needs op_type or backend")
    name = backend if backend is not None else op_type
    if name == "":
        raise ValueError(f"{function}: backend '' is given; allowed are a kernel's name or None")
    if name in _FOREIGN_KERNELS:
        name = None
    if not fused:
        if name not in (None, "reference"):
            raise ValueError(f"{function}: fused=False is the plain reference, but '{name}' is asked for")
        return "manual", "reference"
    return ("runtime" if opt_mode == "manual" and not name else opt_mode), name or ""


def _lay_out(operands: Operands, names: tuple[str, ...], layout: str, wanted: Optional[str]) -> None:
    """Copies operands so that their memory has the layout that the kernel is to run in; their axes stay as they are."""
    if wanted is None or wanted == layout or "BSH" in (layout, wanted):
        return  # BSH and BSND are the same memory
    for name in names:
        array = operands[name]
        swapped = array.transpose(1, 2) if hasattr(array, "contiguous") else array.swapaxes(1, 2)
        dense = swapped.contiguous() if hasattr(swapped, "contiguous") else swapped.copy(order="C")
        operands.replace(name, dense.transpose(1, 2) if hasattr(dense, "contiguous") else dense.swapaxes(1, 2))


def _quantization(
    function: str, kv_cache_dtype: str, rotate: bool, smooth_k: Optional[bool]
) -> tuple[str, bool, Optional[bool]]:
    smooths = None if smooth_k is None else switch(function, "smooth_k", smooth_k)
    return kv_cache_dtype, switch(function, "rotate", rotate), smooths


def _prepare(
    function: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    scale: Optional[float],
    *,
    fused: bool = True,
    head_first: bool = False,
    causal: bool = False,
    input_layout: Optional[str] = None,
    num_heads: Optional[int] = None,
    return_lse: bool = False,
    opt_mode: str = "runtime",
    op_type: Optional[str] = None,
    layout: Optional[str] = None,
    backend: Optional[str] = None,
    threads: Optional[int] = None,
    kv_cache_dtype: str = "auto",
    rotate: bool = True,
    smooth_k: Optional[bool] = None,
) -> tuple[Operands, tuple[Any, ...]]:
    """The operands of a call, checked, and the arguments that the extension takes for it."""
    fused, head_first = switch(function, "fused", fused), switch(function, "head_first", head_first)
    causal, return_lse = switch(function, "causal", causal), switch(function, "return_lse", return_lse)
    quantization = _quantization(function, kv_cache_dtype, rotate, smooth_k)
    kind = _choose_layout(function, head_first, input_layout)
    if layout is not None and layout not in _LAYOUTS:
        raise ValueError(f"{function}: layout '{layout}' is given; allowed are {', '.join(_LAYOUTS)}")
    mode, name = _choose_backend(function, fused, opt_mode, op_type, backend)
    operands = Operands(function, query=query, key=key, value=value, attn_mask=attn_mask)
    _lay_out(operands, ("query", "key", "value"), kind, layout)
    arrays = (operands["query"], operands["key"], operands["value"], operands["attn_mask"])
    settings = (scale, causal, kind, num_heads or 0, return_lse, mode, name, operands.thread_count(threads))
    return operands, (*arrays, *settings, quantization)


def attention_forward(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    scale: Optional[float] = None,
    *,
    fused: bool = True,
    head_first: bool = False,
    causal: bool = False,
    input_layout: Optional[str] = None,
    num_heads: Optional[int] = None,
    return_lse: bool = False,
    opt_mode: str = "runtime",
    op_type: Optional[str] = None,
    layout: Optional[str] = None,
    backend: Optional[str] = None,
    threads: Optional[int] = None,
    kv_cache_dtype: str = "auto",
    rotate: bool = True,
    smooth_k: Optional[bool] = None,
) -> Any:
    """softmax(scale * query key^T + attn_mask) value, per head (Vaswani et al., 2017).

    query: [B, Sq, N, D] (BSND, the default), [B, N, Sq, D] (BNSD: ``head_first=True`` or ``input_layout="BNSD"``) or
        [B, Sq, N * D] (BSH, with ``num_heads``); float32, bfloat16 or float16.
    key, value: likewise with Sk tokens, Nk heads (N is a multiple of Nk) and, for value, a head dim of its own.
    attn_mask: [B, N, Sq, Sk] in any layout of the operands, each of the four axes may be 1; bool (True = keep) or floating
        (added to the scaled scores).
    scale: 1 / sqrt(D) when not given.
    fused: False runs the plain float64 reference.
    causal: query i sees keys up to i + Sk - Sq.
    return_lse: the result is (out, lse) with lse [B, N, Sq] float32, -inf where a query sees no key (out is 0 there).
    opt_mode: "runtime" takes the kernel that was measured to be the fastest (RONDO_TUNE says whether and when that is
        done), else the first that can; "static" the first that can; "manual" ``op_type`` or ``backend``.
    op_type, backend: a kernel's name as ``rondo backends`` lists them; MindIE-SD's own names mean the best one here.
    layout: the memory layout in which the kernel runs; operands that lie otherwise are copied.
    threads: when not given RONDO_THREADS, else torch's count for torch tensors, else OMP_NUM_THREADS, else the physical
        cores.
    kv_cache_dtype: "auto" multiplies operands as they are; "int8" and "fp8" (e4m3) quantise them on the way.
    rotate: whether queries and keys are turned by random Hadamard matrices before they are quantised.
    smooth_k: whether the mean of a sequence's keys is taken from each before they are quantised; where a kernel can, when
        not given.

    Returns an array of query's kind, shape (with value's head dim) and dtype. Raises ValueError for operands that do
    not fit, TypeError for what is no array, NotImplementedError when the named kernel cannot run the problem,
    RuntimeError for a tensor that requires grad while grad is on.
    """
    operands, arguments = _prepare(
        "attention_forward", query, key, value, attn_mask, scale, fused=fused, head_first=head_first, causal=causal,
        input_layout=input_layout, num_heads=num_heads, return_lse=return_lse, opt_mode=opt_mode, op_type=op_type,
        layout=layout, backend=backend, threads=threads, kv_cache_dtype=kv_cache_dtype, rotate=rotate,
        smooth_k=smooth_k,
    )  # fmt: skip
    out, lse = _rondo.attention_forward(*arguments)
    return (operands.take(out), operands.take(lse)) if return_lse else operands.take(out)


def attention_backends(
    query: Any, key: Any, value: Any, attn_mask: Any = None, scale: Optional[float] = None, **options: Any
) -> list[tuple[str, Optional[str]]]:
    """What every kernel, best first, says to the same call of attention_forward: (name, None or the reason why not).

    options: attention_forward's keyword arguments. Raises as attention_forward.
    """
    _, arguments = _prepare("attention_backends", query, key, value, attn_mask, scale, **options)
    return _rondo.attention_backends(*arguments)


def selected_attention_backend(
    query: Any, key: Any, value: Any, attn_mask: Any = None, scale: Optional[float] = None, **options: Any
) -> tuple[str, str]:
    """The kernel that the same call of attention_forward would run on, and what decided that.

    options: attention_forward's keyword arguments. Raises as attention_forward.
    """
    _, arguments = _prepare("selected_attention_backend", query, key, value, attn_mask, scale, **options)
    return _rondo.selected_attention_backend(*arguments)


def _boundaries(function: str, name: str, values: Any) -> list[int]:
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    if not all(isinstance(item, int) and 0 <= item < 2**31 for item in items):
        raise ValueError(f"{function}: {name} is {items}; allowed are whole numbers from 0 to 2147483647")
    return items


def attention_forward_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: Optional[int] = None,
    max_seqlen_k: Optional[int] = None,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    return_lse: bool = False,
    backend: Optional[str] = None,
    *,
    threads: Optional[int] = None,
    kv_cache_dtype: str = "auto",
    rotate: bool = True,
    smooth_k: Optional[bool] = None,
) -> Any:
    """Attention over sequences packed one behind the other.

    q: [Tq, N, D]; k: [Tk, Nk, D]; v: [Tk, Nk, Dv]. Sequence i has queries cu_seqlens_q[i] to cu_seqlens_q[i + 1] and
    keys likewise; a sequence may be empty. max_seqlen_*, where given, must not be less than the longest sequence.
    dropout_p other than 0 is refused; kv_cache_dtype, rotate and smooth_k as in attention_forward. Returns [Tq, N, Dv],
    with return_lse also lse [N, Tq] float32. Raises as attention_forward.
    """
    function = "attention_forward_varlen"
    causal, return_lse = switch(function, "causal", causal), switch(function, "return_lse", return_lse)
    if dropout_p != 0:
        raise NotImplementedError(f"{function}: dropout_p {dropout_p} is given; allowed is 0")
    cu_q = _boundaries(function, "cu_seqlens_q", cu_seqlens_q)
    cu_k = _boundaries(function, "cu_seqlens_k", cu_seqlens_k)
    for name, most, cu in (("max_seqlen_q", max_seqlen_q, cu_q), ("max_seqlen_k", max_seqlen_k, cu_k)):
        longest = max((b - a for a, b in zip(cu, cu[1:])), default=0)
        if most is not None and most < longest:
            raise ValueError(f"{function}: {name} is {most}, but a sequence has {longest} tokens")
    operands = Operands(function, q=q, k=k, v=v)
    out, lse = _rondo.attention_forward_varlen(
        operands["q"], operands["k"], operands["v"], cu_q, cu_k, softmax_scale, causal, return_lse, backend or "",
        operands.thread_count(threads), _quantization(function, kv_cache_dtype, rotate, smooth_k),
    )  # fmt: skip
    return (operands.take(out), operands.take(lse)) if return_lse else operands.take(out)


def merge_attention_states(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> tuple[Any, Any]:
    """Attention over the union of two disjoint sets of keys, from attention over each.

    out: [B, S, N, D]; lse: [B, N, S] float32. Associative; -inf stands for "no key". Returns (out, lse).
    """
    operands = Operands("merge_attention_states", out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    out, lse = _rondo.merge_attention_states(
        operands["out_a"], operands["lse_a"], operands["out_b"], operands["lse_b"]
    )
    return operands.take(out), operands.take(lse)
