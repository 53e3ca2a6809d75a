"""Rondo: fast operators of diffusion transformers, on torch tensors and NumPy arrays.

``import rondo`` needs neither torch nor NumPy; a call uses whichever its arguments come from.
"""

from rondo._rondo import version as _version
from rondo.attention import (
    attention_backends,
    attention_forward,
    attention_forward_varlen,
    merge_attention_states,
)

__version__ = _version()
__all__ = [
    "attention_backends",
    "attention_forward",
    "attention_forward_varlen",
    "merge_attention_states",
]
