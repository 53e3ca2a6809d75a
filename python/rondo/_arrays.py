"""Torch tensors and NumPy arrays in, results of the same kind out, without copies."""

from __future__ import annotations

import os
import sys
from typing import Any, Optional


def _torch() -> Any:
    """Torch, if somebody has imported it: a tensor cannot exist otherwise."""
    return sys.modules.get("torch")


def _is_torch(value: Any) -> bool:
    torch = _torch()
    return torch is not None and isinstance(value, torch.Tensor)


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    # A masked array's mask would be lost.
    return numpy is not None and isinstance(value, numpy.ndarray) and not isinstance(value, numpy.ma.MaskedArray)


def switch(function: str, name: str, value: Any) -> bool:
    """A Python or NumPy bool; anything else, "no" for one, would be taken for True."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{function}: {name} {value!r} is given; allowed are True and False")
    return bool(value)


_MOST_THREADS = 1024
_OPTIONAL = ("attn_mask", "weight", "bias", "query_weight", "key_weight")


class Operands:
    """The arrays of one call: all torch tensors or all NumPy arrays, on the CPU.

    Raises TypeError for anything else or a mixture, ValueError for another device, RuntimeError for a tensor that
    requires grad while grad is on: Rondo computes no gradients.
    """

    def __init__(self, function: str, **arrays: Any) -> None:
        given = {name: array for name, array in arrays.items() if array is not None or name not in _OPTIONAL}
        self._uses_torch = all(_is_torch(array) for array in given.values())
        if not self._uses_torch and not all(_is_numpy(array) for array in given.values()):
            kinds = ", ".join(f"{name} {type(array).__module__}.{type(array).__name__}" for name, array in given.items())
            raise TypeError(f"{function}: given are {kinds}; allowed are torch tensors or NumPy arrays, all of one kind")
        if self._uses_torch:
            self._check_torch(function, given)
            # DLPack knows nothing of torch's lazy sign.
            given = {name: tensor.detach().resolve_neg() for name, tensor in given.items()}
        self._arrays = given

    @staticmethod
    def _check_torch(function: str, tensors: dict[str, Any]) -> None:
        torch = _torch()
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                raise ValueError(f"{function}: {name} is on {tensor.device}; allowed is the CPU")
            if tensor.layout != torch.strided:
                raise TypeError(f"{function}: {name} has the layout {tensor.layout}; allowed are strided tensors")
            if tensor.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"{function}: {name} requires grad, and Rondo computes no gradients; call it under torch.no_grad()"
                )

    def thread_count(self, threads: Optional[int]) -> int:
        """What the extension takes: ``threads``, else for torch tensors torch's own count; 0 leaves it to the library.

        RONDO_THREADS, which the library reads, goes before torch's count. Raises ValueError.
        """
        if threads is None:
            follows_torch = self._uses_torch and not os.environ.get("RONDO_THREADS")
            return min(_torch().get_num_threads(), _MOST_THREADS) if follows_torch else 0
        if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"threads: {threads!r} is given; allowed is 1 to {_MOST_THREADS}")
        return threads

    def __getitem__(self, name: str) -> Any:
        return self._arrays.get(name)

    def replace(self, name: str, array: Any) -> None:
        self._arrays[name] = array

    def take(self, result: Any) -> Any:
        """What the extension returned, as an array of the kind that came in."""
        if result is None:
            return None
        if self._uses_torch:
            return _torch().from_dlpack(result)
        return sys.modules["numpy"].asarray(result)
