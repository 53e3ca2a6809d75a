"""Attention under the names and signatures of flash-attn and of torch, for code that is to change its import only.

Needs torch, as that code does.
"""

from __future__ import annotations

import math
from typing import Any, Optional

import torch

from rondo.attention import attention_forward, attention_forward_varlen


def _refuse(function: str, **arguments: tuple[Any, Any]) -> None:
    """Raises NotImplementedError for the first argument (name=(given, allowed)) that is not what is allowed."""
    for name, (given, allowed) in arguments.items():
        if given != allowed:
            raise NotImplementedError(f"{function}: {name} {given} is given; allowed is {allowed}")


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> torch.Tensor:
    """flash_attn.flash_attn_func: q [B, Sq, N, D], k and v [B, Sk, Nk, D]; causal is aligned at the bottom right.

    Results are deterministic either way. Dropout, windows, soft caps, ALiBi and returned probabilities raise
    NotImplementedError.
    """
    _refuse(
        "flash_attn_func", dropout_p=(dropout_p, 0.0), window_size=(tuple(window_size), (-1, -1)),
        softcap=(softcap, 0.0), alibi_slopes=(alibi_slopes, None), return_attn_probs=(return_attn_probs, False),
    )  # fmt: skip
    return attention_forward(q, k, v, scale=softmax_scale, causal=causal)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Optional[int] = None,
    max_seqlen_k: Optional[int] = None,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Any = None,
) -> torch.Tensor:
    """flash_attn.flash_attn_varlen_func: as rondo.attention_forward_varlen, refusing as flash_attn_func."""
    _refuse(
        "flash_attn_varlen_func", dropout_p=(dropout_p, 0.0), window_size=(tuple(window_size), (-1, -1)),
        softcap=(softcap, 0.0), alibi_slopes=(alibi_slopes, None), return_attn_probs=(return_attn_probs, False),
        block_table=(block_table, None),
    )  # fmt: skip
    return attention_forward_varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=softmax_scale, causal=causal
    )


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.scaled_dot_product_attention: query [..., N, Sq, D], key and value [..., Nk, Sk, D].

    As there: ``is_causal`` is aligned at the top left and excludes a mask; the mask broadcasts to [..., N, Sq, Sk], True =
    keep; heads differ with ``enable_gqa`` only. Dropout raises NotImplementedError.
    """
    function = "scaled_dot_product_attention"
    if query.ndim < 3:
        raise ValueError(f"{function}: query has {query.ndim} axes; allowed are 3 ([N, S, D]) and more")
    if min(key.ndim, value.ndim) < 3:
        raise ValueError(f"{function}: key has {key.ndim} axes and value {value.ndim}; allowed are 3 ([N, S, D]) and more")
    try:
        outer = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    except RuntimeError:
        shapes = [tuple(x.shape) for x in (query, key, value)]
        raise ValueError(f"{function}: query, key and value {shapes} do not fit: their first axes do not broadcast") from None

    def with_four_axes(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.expand((*outer, *tensor.shape[-3:])).reshape((math.prod(outer), *tensor.shape[-3:]))

    mask = attn_mask
    if mask is not None and mask.ndim > 3 and len(outer) > 1:
        mask = with_four_axes(mask)
    out = attend_like_torch(
        with_four_axes(query), with_four_axes(key), with_four_axes(value), mask, dropout_p, is_causal, scale,
        enable_gqa, head_first=True, function=function,
    )  # fmt: skip
    return out.reshape((*outer, *out.shape[-3:]))


def attend_like_torch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor],
    dropout_p: float,
    is_causal: bool,
    scale: Optional[float],
    enable_gqa: bool,
    *,
    head_first: bool,
    function: str,
) -> torch.Tensor:
    """scaled_dot_product_attention's rules on [B, N, S, D], without ``head_first`` on [B, S, N, D]."""
    _refuse(function, dropout_p=(dropout_p, 0.0))
    token_axis, head_axis = (2, 1) if head_first else (1, 2)
    if query.shape[head_axis] != key.shape[head_axis] and not enable_gqa:
        raise ValueError(
            f"{function}: {query.shape[head_axis]} query heads and {key.shape[head_axis]} key heads are given; they may "
            "differ with enable_gqa=True only"
        )
    if is_causal and attn_mask is not None:
        raise ValueError(f"{function}: is_causal and a mask are given; allowed is one of them")
    queries, keys = query.shape[token_axis], key.shape[token_axis]
    if is_causal and queries != keys:
        # Aligned at the top left, where attention_forward's causal is aligned at the bottom right.
        attn_mask = query.new_ones((queries, keys), dtype=torch.bool).tril() if queries and keys else None
        is_causal = False
    if attn_mask is not None:
        attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.ndim) + tuple(attn_mask.shape))
    return attention_forward(query, key, value, attn_mask, scale, causal=is_causal, head_first=head_first)
