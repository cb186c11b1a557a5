"""One update of the weights: the kernel's pass over memory against PyTorch's fused AdamW.

    python benchmarks/optimizer.py [--ranks 4] [--millions 98] [--save]

Every rank has one thread. "alike": the kernel's update against PyTorch's of the same float32 vector. "with working
copy": both also leave the weights in bfloat16. "shard": the kernel's of a rank's part, with working copy and
clipping, against PyTorch's of everything, which is what every rank of plain data parallelism does. Rounds of both
sides in turn, a time is that of the slowest rank, from a common start; medians of ratios with 95 % intervals. Takes
36 bytes a parameter and rank.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import common

ROUNDS = 15


@dataclass
class Side:
    """A whole vector, or a part of one, and what updates it."""

    size: int
    plain: bool
    narrow: bool = False
    factor: float = 1.0

    def prepare(self) -> Callable[[], None]:
        """Its memory, filled; the update. Local."""
        import torch

        from ryzen_mpi.config import Training
        from ryzen_mpi.training.optimizer import FlatOptimizer
        from ryzen_mpi.training.zero.sharded import Shard

        flat = Shard(torch.randn(self.size).mul_(0.02), torch.randn(self.size).mul_(1e-3), self.size)
        working = torch.zeros(1, self.size, dtype=torch.bfloat16) if self.narrow else None
        optimizer = FlatOptimizer(flat, Training(), working=working, plain=self.plain)
        return lambda: optimizer.step(1e-4, self.factor)


def cases(size: int, ranks: int) -> dict[str, tuple[Side, Side]]:
    """By name: PyTorch's side and the kernel's."""
    return {
        "alike": (Side(size, True), Side(size, False)),
        "with working copy": (Side(size, True, True), Side(size, False, True)),
        "shard": (Side(size, True), Side(-(-size // ranks), False, True, 0.5)),
    }


def measure(world, sides: tuple[Side, Side], rounds: int) -> dict:
    """Seconds of both sides, alternating, and their ratio. Collective."""
    updates = [side.prepare() for side in sides]
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 2):
        for update, values in zip(updates, seconds, strict=True):
            world.exchange.allgather(None)
            began = time.perf_counter()
            update()
            slowest = max(world.exchange.allgather(time.perf_counter() - began))
            if number >= 2:
                values.append(slowest)
    slow, fast = (sorted(values)[rounds // 2] for values in seconds)
    return {"pytorch_s": slow, "kernel_s": fast, **common.ratio(*seconds, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--millions", type=float, default=98.0, help="parameters")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    common.relaunch(options.ranks)
    import torch

    from ryzen_mpi.cluster.world import discover

    torch.set_num_threads(1)
    world, size, rows = discover(), int(options.millions * 1e6), []
    for name, sides in cases(size, options.ranks).items():
        rows.append({"case": name, **measure(world, sides, options.rounds)})
        if world.is_leader:
            row = rows[-1]
            print(f"{name:18} PyTorch {row['pytorch_s'] * 1e3:7.1f} ms  kernel {row['kernel_s'] * 1e3:7.1f} ms  "
                  f"{row['ratio']:.2f} times as fast ({row['low']:.2f} to {row['high']:.2f})", flush=True)  # fmt: skip
    if options.save and world.is_leader:
        figures = {"parameters": size, "ranks": world.size, "threads": 1, "rows": rows}
        print(f"kept in {common.save(f'optimizer-{world.size}-ranks', figures)}")


if __name__ == "__main__":
    main()
