"""Rondo under a diffusers model: its attention, RMSNorm and rotary embedding. Needs diffusers 0.35 or later.

Importing this module makes "rondo" known to diffusers, so that ``model.set_attention_backend("rondo")`` works, and
"rondo_or_native", which leaves calls that Rondo refuses to torch with one log line for each reason.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import sys
import weakref
from types import MethodType, ModuleType
from typing import Any, Callable, Optional

import torch
from diffusers.models import attention_dispatch, embeddings, normalization

from rondo.compat import attend_like_torch
from rondo.operators import rms_norm, rotary_position_embedding

_LOGGER = logging.getLogger("rondo.diffusers")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    _parallel_config: Any = None,
) -> torch.Tensor:
    """An attention backend as diffusers calls it: query [B, S, N, D]."""
    if _parallel_config is not None or return_lse:
        raise NotImplementedError("rondo: context parallelism is asked for; allowed is one process")
    if attn_mask is not None and attn_mask.ndim == 2 and attn_mask.shape == (query.shape[0], key.shape[1]):
        attn_mask = attn_mask[:, None, None, :]  # of keys, as diffusers' own backends read it
    return attend_like_torch(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, head_first=False, function="rondo"
    )


_told: set[str] = set()


@functools.wraps(_attend)  # diffusers reads the signature
def _attend_or_native(*arguments: Any, **named: Any) -> torch.Tensor:
    try:
        return _attend(*arguments, **named)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as refusal:
        if str(refusal) not in _told:
            _told.add(str(refusal))
            _LOGGER.warning("%s: torch's attention is used instead", refusal)
        registry = attention_dispatch._AttentionBackendRegistry
        return registry._backends[attention_dispatch.AttentionBackendName.NATIVE](*arguments, **named)


def _make_known(value: str, function: Callable[..., torch.Tensor]) -> Any:
    """The member of diffusers' enumeration for ``value``, added when it is missing, with ``function`` behind it.

    diffusers (seen with 0.42.1) takes only names of this enumeration, which a library cannot extend by its interface.
    """
    names = attention_dispatch.AttentionBackendName
    if value in names._value2member_map_:
        return names(value)
    member = str.__new__(names, value)
    member._name_ = value.upper()
    member._value_ = value
    names._member_map_[member._name_] = member
    names._member_names_.append(member._name_)
    names._value2member_map_[value] = member
    attention_dispatch._AttentionBackendRegistry.register(member)(function)
    return member


_STRICT = _make_known("rondo", _attend)
_LENIENT = _make_known("rondo_or_native", _attend_or_native)


def _suits(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _DTYPES and not (x.requires_grad and torch.is_grad_enabled())


def _norm_forward(module: torch.nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = module.weight
    tracked = weight is not None and weight.requires_grad and torch.is_grad_enabled()
    # With mixed dtypes the modules' own results are in the wider one.
    if not _suits(hidden_states) or tracked or (weight is not None and weight.dtype != hidden_states.dtype):
        return type(module).forward(module, hidden_states)
    eps = module.eps if module.eps is not None else torch.finfo(hidden_states.dtype).eps
    return rms_norm(hidden_states, weight, eps)


def _is_replaceable_norm(module: torch.nn.Module) -> bool:
    if "forward" in module.__dict__:
        return False  # somebody else has put something there
    if isinstance(module, normalization.RMSNorm):
        return len(module.dim) == 1 and module.bias is None
    return isinstance(module, torch.nn.RMSNorm) and len(module.normalized_shape) == 1


# How many enabled models are running, one within the other, on this thread: the rotation is a function that other models
# in the process use as well.
_running: contextvars.ContextVar[int] = contextvars.ContextVar("rondo_running", default=0)


def _enter(*_: Any) -> None:
    _running.set(_running.get() + 1)


def _leave(*_: Any) -> None:
    _running.set(_running.get() - 1)


_original_rotation = embeddings.apply_rotary_emb


def _rotate(
    x: torch.Tensor, freqs_cis: Any, use_real: bool = True, use_real_unbind_dim: int = -1, sequence_dim: int = 2
) -> torch.Tensor:
    """In place of diffusers' apply_rotary_emb."""
    tables = freqs_cis if isinstance(freqs_cis, tuple) and len(freqs_cis) == 2 else ()
    plain = (
        _running.get() > 0 and use_real and use_real_unbind_dim in (-1, -2) and sequence_dim in (1, 2)
        and x.ndim == 4 and _suits(x) and len(tables) == 2
        and all(t.ndim == 2 and t.dtype == torch.float32 and t.shape == (x.shape[sequence_dim], x.shape[3]) for t in tables)
    )  # fmt: skip
    if not plain:
        return _original_rotation(x, freqs_cis, use_real, use_real_unbind_dim, sequence_dim)
    mode = "rotated_interleaved" if use_real_unbind_dim == -1 else "rotated_half"
    return rotary_position_embedding(x, *tables, mode, sequence_dim == 2)


class _RotationPatch:
    """Puts _rotate into modules that imported diffusers' function, as long as an enabled model uses them."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}

    def add(self, module: ModuleType) -> None:
        self._users[module.__name__] = self._users.get(module.__name__, 0) + 1
        module.apply_rotary_emb = _rotate

    def remove(self, module: ModuleType) -> None:
        self._users[module.__name__] -= 1
        if self._users[module.__name__] == 0:
            module.apply_rotary_emb = _original_rotation


_patch = _RotationPatch()


class _Enabled:
    """What was changed on one model, to put it back."""

    def __init__(self, model: torch.nn.Module, backend: Any) -> None:
        processors = self._processors(model)
        self._processors_before = [(p, p.__dict__.get("_attention_backend", _Enabled)) for p in processors]
        for processor in processors:
            processor._attention_backend = backend
        self._norms = [module for module in model.modules() if _is_replaceable_norm(module)]
        for norm in self._norms:
            norm.forward = MethodType(_norm_forward, norm)
        names = {type(model).__module__, *(type(processor).__module__ for processor in processors)}
        loaded = [sys.modules[name] for name in sorted(names)]
        self._rotating = [m for m in loaded if getattr(m, "apply_rotary_emb", None) in (_original_rotation, _rotate)]
        for module in self._rotating:
            _patch.add(module)
        # First of all hooks: one that raises before it would leave the count uneven.
        self._hooks = [
            model.register_forward_pre_hook(_enter, prepend=True),
            model.register_forward_hook(_leave, always_call=True),
        ]

    @staticmethod
    def _processors(model: torch.nn.Module) -> list[Any]:
        # By identity: modules may share one.
        found = {id(m.processor): m.processor for m in model.modules() if getattr(m, "processor", None) is not None}
        for processor in found.values():
            if not hasattr(processor, "_attention_backend"):
                raise NotImplementedError(
                    f"rondo.diffusers: {type(model).__name__} has the attention processor {type(processor).__name__}, "
                    "which calls torch by itself; allowed are those that go through diffusers' attention dispatch"
                )
        if not found:
            raise ValueError(f"rondo.diffusers: {type(model).__name__} has no attention processors")
        return list(found.values())

    def undo(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for module in self._rotating:
            _patch.remove(module)
        for norm in self._norms:
            del norm.forward
        for processor, before in self._processors_before:
            if before is _Enabled:
                del processor._attention_backend
            else:
                processor._attention_backend = before


# Beside the models, not on them: a copy of a model is not enabled by what was changed on the original.
_enabled: weakref.WeakKeyDictionary[torch.nn.Module, _Enabled] = weakref.WeakKeyDictionary()


def _models(target: Any) -> list[torch.nn.Module]:
    if isinstance(target, torch.nn.Module):
        return [target]
    components = getattr(target, "components", {})
    names = [name for name in components if name == "unet" or name.startswith("transformer")]
    models = [components[name] for name in sorted(names) if isinstance(components[name], torch.nn.Module)]
    if not models:
        raise TypeError(
            f"rondo.diffusers: {type(target).__name__} is given; allowed are a diffusers model, or a pipeline with a "
            "transformer"
        )
    return models


def enable(pipe_or_transformer: Any, *, fallback: bool = False) -> Any:
    """Puts Rondo under the attention, RMSNorm and rotary embedding of a model, or of a pipeline's transformers.

    Other models in the process are not touched. An attention call that Rondo cannot do raises (NotImplementedError,
    RuntimeError, TypeError or ValueError with the reason); with ``fallback`` torch does it, with one log line for each
    reason. Norms and rotations of other kinds than Rondo's stay diffusers' own. Returns what was given. Raises
    NotImplementedError for models whose attention does not go through diffusers' dispatch, TypeError for other objects.
    """
    models = _models(pipe_or_transformer)
    disable(pipe_or_transformer)
    try:
        for model in models:
            _enabled[model] = _Enabled(model, _LENIENT if fallback else _STRICT)
    except Exception:
        disable(pipe_or_transformer)
        raise
    return pipe_or_transformer


def disable(pipe_or_transformer: Any) -> Any:
    """Puts everything back as it was before enable(); nothing happens where that was not called."""
    for model in _models(pipe_or_transformer):
        state = _enabled.pop(model, None)
        if state is not None:
            state.undo()
    return pipe_or_transformer
