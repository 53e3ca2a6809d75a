"""Rondo: fast operators of diffusion transformers, on torch tensors and NumPy arrays.

``import rondo`` needs neither torch nor NumPy; a call uses whichever its arguments come from. ``RMSNorm`` and
``get_activation_layer`` are torch modules and import torch when they are first used; ``rondo.compat`` has the signatures of
flash-attn and torch, ``rondo.diffusers`` puts Rondo under a diffusers model.
"""

from typing import Any

from rondo._rondo import version as _version
from rondo.attention import (
    attention_backends,
    attention_forward,
    attention_forward_varlen,
    merge_attention_states,
    selected_attention_backend,
)
from rondo.operators import (
    activation,
    add_rms_norm,
    layer_norm,
    layernorm_scale_shift,
    qk_norm_rope,
    residual_gate_add,
    rms_norm,
    rotary_position_embedding,
    swiglu,
)
from rondo.parallel import ParallelAttention, ParallelWorld

__version__ = _version()
_LAYERS = ("RMSNorm", "get_activation_layer")
__all__ = [
    "ParallelAttention",
    "ParallelWorld",
    "activation",
    "add_rms_norm",
    "attention_backends",
    "attention_forward",
    "attention_forward_varlen",
    "layer_norm",
    "layernorm_scale_shift",
    "merge_attention_states",
    "qk_norm_rope",
    "residual_gate_add",
    "rms_norm",
    "rotary_position_embedding",
    "selected_attention_backend",
    "swiglu",
    *_LAYERS,
]


def __getattr__(name: str) -> Any:
    if name in _LAYERS:
        from rondo import layers

        return getattr(layers, name)
    raise AttributeError(f"module 'rondo' has no attribute '{name}'")
