"""Sums that are wider than what is added: bfloat16 gradients of several ranks into a float32 one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ryzen_mpi.comm.region import _kernel


def widen_sum(sources: Sequence[Tensor], target: Tensor, add: bool) -> None:
    """`target` becomes, or grows by, ((s0 + s1) + s2) + ... in its own precision; all contiguous, of one length. Local.

    Source of the order: whoever adds, in whatever memory, gets the same bits.
    """
    fast = _kernel is not None and sources[0].dtype == torch.bfloat16 and target.dtype == torch.float32
    if fast:
        addresses = tuple(source.data_ptr() for source in sources)
        _kernel.widen_sum(addresses, target.data_ptr(), target.numel(), add)
    else:
        plain_widen_sum(sources, target, add)


def plain_widen_sum(sources: Sequence[Tensor], target: Tensor, add: bool) -> None:
    """The same in PyTorch."""
    if len(sources) == 1:
        total = sources[0].to(target.dtype)
    else:
        total = torch.add(sources[0].to(target.dtype), sources[1].to(target.dtype))
    for source in sources[2:]:
        total += source
    target.add_(total) if add else target.copy_(total)
