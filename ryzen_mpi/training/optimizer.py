"""Adam and AdamW over the flat vectors: one pass over memory by the kernel, or by PyTorch where that is not built.

The pass takes the gradient's factor (clipping) and writes the rounded weights that the model computes with.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ryzen_mpi.comm.dtypes import DTYPE_CODES
from ryzen_mpi.comm.region import _kernel
from ryzen_mpi.config import Training

EPSILON = 1e-8
"""What both papers, and PyTorch, add to the root of the second moment."""
SHARE = 1 << 16
"""Elements below which another thread does not pay: some tens of microseconds of work."""


class Updatable(Protocol):
    """Flat vectors to update.

    Attributes:
        master, gradient: [size], float32 or float64 alike, contiguous, always at the same place.
        decayed: length of the front part that weight decay applies to.
    """

    master: Tensor
    gradient: Tensor
    decayed: int


class FlatOptimizer:
    """Updates `flat.master` from `flat.gradient`; weight decay on matrices alone.

    Args:
        moments: zeroed memory for the moments; own where absent.
        working: [parts, part] memory of what the model computes with, in master's precision or bfloat16: every update
            writes the rounded weights there, row by row. Rows may lie apart. None where it computes with master itself.
        plain: asks for the version without the kernel.

    Attributes:
        first, second: [size] running means of the gradient and of its square (Kingma & Ba 2015, algorithm 1).
        updates: updates made, which the bias correction depends on.
    """

    def __init__(
        self,
        flat: Updatable,
        settings: Training,
        moments: tuple[Tensor, Tensor] | None = None,
        working: Tensor | None = None,
        plain: bool = False,
    ) -> None:
        self.flat, self.working, self.updates = flat, working, 0
        self.first, self.second = moments or (torch.zeros_like(flat.master), torch.zeros_like(flat.master))
        kind = PlainUpdate if plain or _kernel is None else CompiledUpdate
        self._update: Update = kind(self, settings)

    def step(self, learning_rate: float, factor: float = 1.0) -> None:
        """One update by `factor` times the gradient, which holds nothing of use afterwards. Local."""
        self.updates += 1
        self._update(learning_rate, factor)

    def publish(self) -> None:
        """Rounds master into what the model computes with: after a change that was no update. Local."""
        if self.working is not None:
            self.working.copy_(self.flat.master.view(self.working.shape))


class Update(Protocol):
    """The arithmetic of a `FlatOptimizer`'s step number `updates`."""

    def __init__(self, optimizer: FlatOptimizer, settings: Training) -> None: ...
    def __call__(self, learning_rate: float, factor: float) -> None: ...


class PlainUpdate:
    """By PyTorch: a pass for the factor, one for the update, one for what the model computes with."""

    def __init__(self, optimizer: FlatOptimizer, settings: Training) -> None:
        self.optimizer, flat = optimizer, optimizer.flat
        self._counts: list[Tensor] = []
        groups, states = [], {}
        for part, decay in ((slice(0, flat.decayed), settings.weight_decay), (slice(flat.decayed, None), 0.0)):
            weights = torch.nn.Parameter(flat.master[part])
            weights.grad = flat.gradient[part]
            if weights.numel():
                count = torch.zeros((), dtype=torch.float32)
                self._counts.append(count)
                groups.append({"params": [weights], "weight_decay": decay})
                moments = {"exp_avg": optimizer.first[part], "exp_avg_sq": optimizer.second[part]}
                states[weights] = {"step": count, **moments}
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        empty = [{"params": []}]  # PyTorch wants one group at least
        self._inner = kind(groups or empty, betas=(settings.beta1, settings.beta2), eps=EPSILON, fused=True)
        self._inner.state.update(states)  # before the first step, so that PyTorch allocates none of its own

    def __call__(self, learning_rate: float, factor: float) -> None:
        if factor != 1.0:
            self.optimizer.flat.gradient.mul_(factor)
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
        for count in self._counts:
            count.fill_(self.optimizer.updates - 1)
        self._inner.step()
        self.optimizer.publish()


class CompiledUpdate:
    """By the kernel (comm/adam.h): one pass over memory, on as many threads as PyTorch has."""

    def __init__(self, optimizer: FlatOptimizer, settings: Training) -> None:
        self.optimizer, self.settings = optimizer, settings
        flat, working = optimizer.flat, optimizer.working
        self._vectors = (flat.master, flat.gradient, optimizer.first, optimizer.second)
        for vector in self._vectors:
            assert vector.is_contiguous() and (vector.dtype, vector.shape) == (flat.master.dtype, flat.master.shape)
        self._dtype = DTYPE_CODES[flat.master.dtype]
        self._copy = (0, self._dtype, 1, 1)
        if working is not None and working.numel():
            assert working.numel() == flat.master.numel() and working.stride(1) == 1
            self._copy = (working.data_ptr(), DTYPE_CODES[working.dtype], working.shape[1], working.stride(0))

    def __call__(self, learning_rate: float, factor: float) -> None:
        settings, count = self.settings, self.optimizer.updates
        correction, root = 1.0 - settings.beta1**count, (1.0 - settings.beta2**count) ** 0.5
        decay = (settings.weight_decay, correction, root)
        numbers = (factor, learning_rate, settings.beta1, settings.beta2, EPSILON, *decay)
        addresses = tuple(vector.data_ptr() for vector in self._vectors)
        how = (self._dtype, numbers, settings.optimizer == "adam", self.optimizer.flat.decayed, self._copy)
        first, *others = shares(self.optimizer.flat.master.numel(), torch.get_num_threads())
        waiting = [_threads(len(others)).submit(_kernel.adam, addresses, *share, *how) for share in others]
        _kernel.adam(addresses, *first, *how)
        for one in waiting:
            one.result()


def shares(size: int, threads: int) -> list[tuple[int, int]]:
    """[begin, end) of about equal shares of `size` elements: one a thread, and fewer where they would be small."""
    count = max(1, min(threads, size // SHARE))
    bounds = [size * number // count // 64 * 64 for number in range(count)] + [size]
    return list(zip(bounds, bounds[1:], strict=False))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="update")
