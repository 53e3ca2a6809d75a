"""Attention over tokens that lie on several ranks: Ulysses, ring attention, and both at once.

    with rondo.ParallelWorld.join_mpi() as world:                    # under mpirun -n 4 python script.py
        attention = rondo.ParallelAttention(world, ulysses_degree=2, ring_degree=2)
        out = attention(query, key, value)                           # this rank's tokens in, this rank's out
"""

from __future__ import annotations

from typing import Any, Optional

from rondo import _rondo
from rondo._arrays import Operands, switch
from rondo.attention import _boundaries, _quantization


class ParallelWorld:
    """The ranks of a run; each rank's calls come from one thread at a time.

    A context manager: leaving it waits for all ranks, an exception within tells them that this one failed.
    """

    def __init__(self, world: Any) -> None:
        self._world = world

    @classmethod
    def join_mpi(cls, rank_timeout: float = 8.0) -> ParallelWorld:
        """Joins the processes that mpirun started; once a process.

        rank_timeout: seconds without a sign of life after which a rank is given up. Raises NotImplementedError in a build
        without MPI, or where something else (mpi4py) has joined already.
        """
        return cls(_rondo.ParallelWorld.join_mpi(rank_timeout))

    @classmethod
    def threads(cls, ranks: int) -> list[ParallelWorld]:
        """Ranks of this process, each for a thread of the caller's."""
        return [cls(world) for world in _rondo.ParallelWorld.threads(ranks)]

    @property
    def rank(self) -> int:
        return self._world.rank

    @property
    def size(self) -> int:
        return self._world.size

    def fail(self, reason: str) -> None:
        """Tells the other ranks that this one gives up: what they wait for raises RuntimeError with the reason."""
        self._world.fail(reason)

    def finish(self) -> None:
        """Waits until all ranks are done. Without it the others take this one for failed."""
        self._world.finish()

    def __enter__(self) -> ParallelWorld:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(f"{kind.__name__}: {error}")


class ParallelAttention:
    """Self-attention of one sequence whose tokens the ranks hold in their order; every rank calls it alike."""

    def __init__(self, world: ParallelWorld, *, ulysses_degree: Optional[int] = None, ring_degree: int = 1) -> None:
        """ulysses_degree: ranks that exchange tokens for heads; what ring_degree leaves of the world when not given.
        ring_degree: ranks between which keys and values travel. Raises ValueError unless they make up the world.
        """
        self._attention = _rondo.parallel_attention(world._world, ulysses_degree, ring_degree)

    def __call__(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        scale: Optional[float] = None,
        *,
        causal: bool = False,
        input_layout: str = "BSND",
        return_lse: bool = False,
        backend: Optional[str] = None,
        threads: Optional[int] = None,
        kv_cache_dtype: str = "auto",
        rotate: bool = True,
        smooth_k: Optional[bool] = None,
    ) -> Any:
        """softmax(scale * query key^T + attn_mask) value, per head, over the tokens of all ranks.

        query: [B, S, N, D] (BSND) or [B, N, S, D] (BNSD); key, value: likewise with Nk heads, N a multiple of Nk. S may
            differ from rank to rank and be 0.
        attn_mask: of the whole sequence, on every rank: floating, [B or 1, N or 1, all S, all S].
        return_lse: the result is (out, lse) with lse [B, N, S] float32.
        The others as in attention_forward. Returns this rank's tokens, in query's kind, dtype and layout. Raises as
        attention_forward, and RuntimeError when another rank failed.
        """
        function = "ParallelAttention"
        operands = Operands(function, query=query, key=key, value=value, attn_mask=attn_mask)
        out, lse = self._attention.forward(
            operands["query"], operands["key"], operands["value"], operands["attn_mask"], scale,
            switch(function, "causal", causal), input_layout, switch(function, "return_lse", return_lse), backend or "",
            operands.thread_count(threads), _quantization(function, kv_cache_dtype, rotate, smooth_k),
        )  # fmt: skip
        return (operands.take(out), operands.take(lse)) if return_lse else operands.take(out)

    def varlen(
        self,
        q: Any,
        k: Any,
        v: Any,
        cu_seqlens: Any,
        softmax_scale: Optional[float] = None,
        *,
        causal: bool = False,
        return_lse: bool = False,
        backend: Optional[str] = None,
        threads: Optional[int] = None,
        kv_cache_dtype: str = "auto",
        rotate: bool = True,
        smooth_k: Optional[bool] = None,
    ) -> Any:
        """Packed sequences that ranks cut anywhere: q [T, N, D], k [T, Nk, D], v [T, Nk, Dv] of this rank.

        cu_seqlens: of the whole, on every rank, as in attention_forward_varlen.
        return_lse: the result is (out, lse) with lse [N, T] float32.
        """
        function = "ParallelAttention.varlen"
        operands = Operands(function, q=q, k=k, v=v)
        out, lse = self._attention.forward_varlen(
            operands["q"], operands["k"], operands["v"], _boundaries(function, "cu_seqlens", cu_seqlens),
            softmax_scale, switch(function, "causal", causal), switch(function, "return_lse", return_lse),
            backend or "", operands.thread_count(threads), _quantization(function, kv_cache_dtype, rotate, smooth_k),
        )  # fmt: skip
        return (operands.take(out), operands.take(lse)) if return_lse else operands.take(out)
