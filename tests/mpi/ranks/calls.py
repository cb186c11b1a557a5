"""Every collective of torch.distributed once, with what it must give: (result, expected) pairs for any dtype and shape.

A call is `call(case)`; the arguments are in the case, the same on all ranks, so that inputs of all can be computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import reference
import torch
import torch.distributed as dist
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]
OPS = {name: getattr(dist.ReduceOp, name.upper()) for name in reference.OPS}
CALLS: dict[str, Callable[["Case"], Pairs]] = {}


@dataclass(frozen=True)
class Case:
    """What one call is to do: among `group`, in which this process is `rank` of `size`."""

    group: dist.ProcessGroup
    rank: int
    size: int
    seed: int = 1
    count: int = 12
    dtype: torch.dtype = torch.float32
    op: str = "sum"
    layout: str = "contiguous"
    root: int = 0
    later: bool = False

    @property
    def root_global(self) -> int:
        return dist.get_global_rank(self.group, self.root)

    def of(self, rank: int, count: int | None = None) -> Tensor:
        """What `rank` brings."""
        values = reference.small(self.seed, rank, self.count if count is None else count, torch.int32)
        if self.dtype.is_complex:
            return torch.complex(values.float(), -2 * values.float()).to(self.dtype)
        if self.dtype in reference.UNSIGNED or self.dtype == torch.bool:
            values = values.abs()
        return values.ne(0) if self.dtype == torch.bool else values.to(self.dtype)

    def laid(self, rank: int, count: int | None = None) -> Tensor:
        return reference.laid_out(self.of(rank, count), self.layout)

    def room(self, count: int | None = None) -> Tensor:
        """Where a result goes: of the layout, holding something else."""
        return reference.laid_out(torch.full_like(self.of(0, count), 1), self.layout)

    def all_reduced(self, count: int | None = None) -> Tensor:
        parts = [self.of(rank, count) for rank in range(self.size)]
        return torch.stack(parts).sum(0) if self.dtype.is_complex else reference.reduced(parts, self.op)

    def do(self, function: Callable, *args, **more) -> None:
        work = function(*args, group=self.group, async_op=self.later, **more)
        if self.later:
            work.wait()


def call(function: Callable[[Case], Pairs]) -> Callable[[Case], Pairs]:
    CALLS[function.__name__] = function
    return function


@call
def all_reduce(case: Case) -> Pairs:
    tensor = case.laid(case.rank)
    case.do(dist.all_reduce, tensor, op=OPS[case.op])
    return [(tensor, reference.laid_out(case.all_reduced(), case.layout))]


@call
def reduce(case: Case) -> Pairs:
    tensor = case.laid(case.rank)
    case.do(dist.reduce, tensor, case.root_global, op=OPS[case.op])
    return [
        (
            tensor,
            reference.laid_out(case.all_reduced(), case.layout) if case.rank == case.root else case.laid(case.rank),
        )
    ]


@call
def broadcast(case: Case) -> Pairs:
    tensor = case.laid(case.root) if case.rank == case.root else case.room()
    case.do(dist.broadcast, tensor, case.root_global)
    return [(tensor, case.laid(case.root))]


@call
def all_gather(case: Case) -> Pairs:
    rooms = [case.room() for _ in range(case.size)]
    case.do(dist.all_gather, rooms, case.laid(case.rank))
    return [(room, case.laid(rank)) for rank, room in enumerate(rooms)]


@call
def all_gather_uneven(case: Case) -> Pairs:
    counts = [case.count + 3 * rank for rank in range(case.size)]
    rooms = [case.room(count) for count in counts]
    case.do(dist.all_gather, rooms, case.laid(case.rank, counts[case.rank]))
    return [(room, case.laid(rank, counts[rank])) for rank, room in enumerate(rooms)]


@call
def all_gather_into_tensor(case: Case) -> Pairs:
    output = case.room(case.count * case.size).flatten()
    case.do(dist.all_gather_into_tensor, output, case.laid(case.rank))
    return [(output, torch.cat([case.laid(rank).flatten() for rank in range(case.size)]))]


@call
def all_gather_in_place(case: Case) -> Pairs:
    output = case.room(case.count * case.size).flatten()
    mine = output[case.rank * case.count : (case.rank + 1) * case.count]
    mine.copy_(case.of(case.rank))
    case.do(dist.all_gather_into_tensor, output, mine)
    return [(output, torch.cat([case.of(rank) for rank in range(case.size)]))]


@call
def gather(case: Case) -> Pairs:
    rooms = [case.room() for _ in range(case.size)] if case.rank == case.root else None
    case.do(dist.gather, case.laid(case.rank), rooms, dst=case.root_global)
    return [(room, case.laid(rank)) for rank, room in enumerate(rooms or [])]


@call
def scatter(case: Case) -> Pairs:
    room = case.room()
    given = [case.laid(rank) for rank in range(case.size)] if case.rank == case.root else None
    case.do(dist.scatter, room, given, src=case.root_global)
    return [(room, case.laid(case.rank))]


@call
def reduce_scatter(case: Case) -> Pairs:
    counts = [case.count + (case.seed % 2) * rank for rank in range(case.size)]  # even and uneven parts
    given = list(case.of(case.rank, sum(counts)).split(counts))
    before = [part.clone() for part in given]
    room = case.room(counts[case.rank]).flatten()
    case.do(dist.reduce_scatter, room, given, op=OPS[case.op])
    return [(room, case.all_reduced(sum(counts)).split(counts)[case.rank]), *zip(given, before, strict=True)]


@call
def reduce_scatter_tensor(case: Case) -> Pairs:
    given = case.of(case.rank, case.count * case.size)
    room = case.room()
    case.do(dist.reduce_scatter_tensor, room, given, op=OPS[case.op])
    mine = case.all_reduced(case.count * case.size).split(case.count or 1)[case.rank if case.count else 0]
    return [(room, reference.laid_out(mine, case.layout)), (given, case.of(case.rank, case.count * case.size))]


@call
def all_to_all(case: Case) -> Pairs:
    def count(source: int, target: int) -> int:
        return case.count + (source + 2 * target) * (case.seed % 2)

    ranks = range(case.size)
    rooms = [case.room(count(rank, case.rank)) for rank in ranks]
    case.do(dist.all_to_all, rooms, [case.laid(case.rank, count(case.rank, rank)) for rank in ranks])
    return [(room, case.laid(rank, count(rank, case.rank))) for rank, room in enumerate(rooms)]


@call
def all_to_all_single(case: Case) -> Pairs:
    whole = case.count * case.size
    given, room = case.of(case.rank, whole).view(whole // 2, 2) if whole % 2 == 0 else case.of(case.rank, whole), None
    if given.shape[0] % case.size:
        given = given.flatten()
    room = torch.ones_like(given)
    case.do(dist.all_to_all_single, room, given)
    parts = [case.of(rank, whole)[case.rank * case.count : (case.rank + 1) * case.count] for rank in range(case.size)]
    return [(room.flatten(), torch.cat(parts))]


@call
def all_to_all_single_uneven(case: Case) -> Pairs:
    sent = [[(case.count + source * target) % 7 for target in range(case.size)] for source in range(case.size)]
    received = [sent[source][case.rank] for source in range(case.size)]
    given = case.of(case.rank, 2 * sum(sent[case.rank])).view(-1, 2)
    room = case.room(2 * sum(received)).flatten().view(-1, 2)
    case.do(dist.all_to_all_single, room, given, received, sent[case.rank])
    parts = [
        case.of(source, 2 * sum(sent[source])).view(-1, 2).split(sent[source])[case.rank] for source in range(case.size)
    ]
    return [(room, torch.cat(parts))]


@call
def barrier(case: Case) -> Pairs:
    case.do(dist.barrier)
    return []


@call
def messages(case: Case) -> Pairs:
    """Everyone sends to everyone with tags, received in the opposite order; isend to oneself is not allowed."""
    others = [rank for rank in range(case.size) if rank != case.rank]
    whom = {rank: dist.get_global_rank(case.group, rank) for rank in others}
    rooms = {(rank, tag): case.room() for rank in others for tag in (5, 0)}
    works = [dist.irecv(room, whom[rank], case.group, tag) for (rank, tag), room in rooms.items()]
    for tag in (0, 5):
        works += [dist.isend(case.laid(case.rank), whom[rank], case.group, tag) for rank in others]
    for work in works:
        work.wait()
    return [(room, case.laid(rank)) for (rank, _), room in rooms.items()]


def wrong(name: str, case: Case) -> list[str]:
    """Does a call; what is not as it should be, in words."""
    if "reduce" in name and case.dtype.is_complex and (case.op != "sum" or name != "all_reduce"):
        return []  # torch knows a sum of complex numbers in all_reduce alone
    pairs = CALLS[name](case)
    bad = [i for i, (got, expected) in enumerate(pairs) if not torch.equal(got.cpu(), expected)]
    return [f"{name} {case}: {pairs[bad[0]]}"] if bad else []
