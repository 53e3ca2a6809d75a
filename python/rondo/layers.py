"""torch.nn modules over Rondo's operators. Needs torch; ``rondo.RMSNorm`` and ``rondo.get_activation_layer`` lead here."""

from __future__ import annotations

import torch

from rondo.operators import activation, rms_norm

_ACTIVATIONS = ("swish", "silu", "mish", "gelu", "relu", "gelu-tanh", "gelu-fast")


class RMSNorm(torch.nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, with a weight of ``hidden_size``, ones at first."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: torch.Tensor, if_fused: bool = True) -> torch.Tensor:
        """x: [..., hidden_size]; if_fused=False: the plain reference in float64."""
        return rms_norm(x, self.weight, self.eps, fused=if_fused)


class _Activation(torch.nn.Module):
    def __init__(self, act_type: str) -> None:
        super().__init__()
        self.act_type = act_type

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return activation(x, self.act_type)


def get_activation_layer(act_type: str) -> torch.nn.Module:
    """A module for swish, silu, mish, gelu, relu, gelu-tanh or gelu-fast, in any case. Raises ValueError for others."""
    if act_type.lower() not in _ACTIVATIONS:
        raise ValueError(
            f"get_activation_layer: '{act_type}' is given; allowed are {', '.join(_ACTIVATIONS)}, in any case"
        )
    return _Activation(act_type.lower())
