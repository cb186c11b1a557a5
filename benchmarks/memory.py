"""What a node's ranks really take, against what was reckoned beforehand.

    python benchmarks/memory.py [--save]                       # the configurations below, at 2 and 4 ranks
    python benchmarks/memory.py --ranks 4 hardware.zero_stage=2 model.num_layers=12 ...

Every configuration trains three steps in processes of its own. Measured is PSS, which counts a page that several
processes share once: the sum over the ranks is what the node gives. Taken is the largest of samples during a step. It
needs no idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import common

STEPS = 3
SAMPLE_S = 0.02
SHAPES = {
    "2 M": "model.embedding_dim=192 model.num_layers=4 model.feed_forward_dim=768 model.num_heads=4",
    "14 M": "model.embedding_dim=384 model.num_layers=8 model.feed_forward_dim=1536 model.num_heads=6",
    "50 M": "model.embedding_dim=640 model.num_layers=10 model.feed_forward_dim=2560 model.num_heads=10",
    "98 M": "model.embedding_dim=768 model.num_layers=12 model.feed_forward_dim=3072 model.num_heads=12",
    "300 M": "model.embedding_dim=1024 model.num_layers=24 model.feed_forward_dim=4096 model.num_heads=16",
}
COMMON = "data.source=random data.num_samples=4096 training.batch_size=2 model.seq_length=256"
CASES = (
    ("2 M", 4, "hardware.dtype=float32 model.vocab_size=2048"),
    ("14 M", 2, "hardware.dtype=float32 model.vocab_size=2048"),
    ("50 M", 2, "hardware.dtype=bfloat16 model.vocab_size=2048 hardware.zero_stage=1"),
    ("98 M", 4, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2"),
    ("98 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384"),
    ("98 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2 training.batch_size=8"),
    ("300 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2 model.seq_length=512"),
)


def pss(pid: int | str = "self") -> dict[str, int]:
    """A process' share of the memory it uses, by kind, in bytes."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0].startswith("Pss")}


def most_pss(run: Callable[[], object], world) -> dict[str, int]:
    """PSS summed over all ranks, of one node, at its largest while all do `run`. Collective; known on rank 0."""
    pids, samples, over = world.exchange.allgather(os.getpid()), [], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            every = [pss(pid) for pid in pids]
            samples.append({kind: sum(one[kind] for one in every) for kind in every[0]})

    thread = threading.Thread(target=sample, daemon=True)
    if world.is_leader:
        thread.start()
    run()
    world.exchange.allgather(None)
    over.set()
    if world.is_leader:
        thread.join()
    return max(samples, key=lambda sample: sample["Pss"], default={})


def measure(overrides: list[str]) -> None:
    """On every rank: trains, and rank 0 prints what all take."""
    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world, settings = discover(), load_settings("default", overrides)
    import torch

    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.data.random_tokens import RandomTokens
    from ryzen_mpi.model.transformer import parameter_count
    from ryzen_mpi.training.memory import need
    from ryzen_mpi.training.step import TrainingStep

    torch.set_num_threads(1)
    with process_group(world, settings.distributed):
        model, training = settings.model, settings.training
        source = RandomTokens(model.vocab_size, model.seq_length, settings.data.num_samples, training.seed)
        step = TrainingStep(settings, source, world.rank, world.size, settings.global_batch(world.size))
        keep_freed_memory()
        for _ in range(STEPS - 1):
            step.run()
        total = most_pss(step.run, world)
        reckoned = need(settings, world.size).steady
    if world.is_leader:
        found = {"parameters": parameter_count(settings), "ranks": world.size, "reckoned": reckoned}
        print(json.dumps(found | total), flush=True)


def launch(ranks: int, overrides: list[str]) -> dict:
    """The figures of one configuration, in processes of its own."""
    command = ["mpirun", "-np", str(ranks), sys.executable, __file__, "--inside", *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(overrides)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    if options.inside:
        measure(options.overrides)
        return
    cases = [("", options.ranks, " ".join(options.overrides))] if options.overrides else CASES
    rows = []
    for shape, ranks, words in cases:
        overrides = f"{COMMON} {SHAPES.get(shape, '')} {words}".split()
        found = launch(ranks, overrides)
        rows.append(
            {"case": f"{shape} {words}".strip(), **found, "bytes_a_parameter": found["Pss"] / found["parameters"]}
        )
        print(f"{rows[-1]['case']}, {ranks} ranks: {found['Pss'] / 2**20:.0f} MiB, "
              f"{rows[-1]['bytes_a_parameter']:.1f} B a parameter, reckoned {found['reckoned'] / found['Pss']:.2f} of it",
              flush=True)  # fmt: skip
    if options.save:
        print(f"kept in {common.save('memory', {'rows': rows})}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
