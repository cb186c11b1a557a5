"""What a node's ranks really take, against what was reckoned beforehand.

    python benchmarks/memory.py [--save]                       # the configurations below, at 2 and 4 ranks
    python benchmarks/memory.py --ranks 4 hardware.zero_stage=2 model.num_layers=12 ...

Every configuration is a main job of four steps, an evaluation and a checkpoint. Measured is PSS, which counts a page
that several processes share once: the sum over the ranks is what the node gives. Taken is the largest of samples over
the whole job. It needs no idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import common
import psutil

SAMPLE_S = 0.02
SHAPES = {
    "2 M": "model.embedding_dim=192 model.num_layers=4 model.feed_forward_dim=768 model.num_heads=4",
    "14 M": "model.embedding_dim=384 model.num_layers=8 model.feed_forward_dim=1536 model.num_heads=6",
    "50 M": "model.embedding_dim=640 model.num_layers=10 model.feed_forward_dim=2560 model.num_heads=10",
    "98 M": "model.embedding_dim=768 model.num_layers=12 model.feed_forward_dim=3072 model.num_heads=12",
    "300 M": "model.embedding_dim=1024 model.num_layers=24 model.feed_forward_dim=4096 model.num_heads=16",
}
COMMON = (
    "data.source=random data.num_samples=4096 training.batch_size=2 model.seq_length=256 training.max_steps=4 "
    "training.eval_samples=4"
)
CASES = (
    ("2 M", 4, "hardware.dtype=float32 model.vocab_size=2048"),
    ("14 M", 2, "hardware.dtype=float32 model.vocab_size=2048"),
    ("50 M", 2, "hardware.dtype=bfloat16 model.vocab_size=2048 hardware.zero_stage=1"),
    ("98 M", 4, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2"),
    ("98 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384"),
    ("98 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2 training.batch_size=8"),
    ("300 M", 2, "hardware.dtype=bfloat16 model.vocab_size=16384 hardware.zero_stage=2 model.seq_length=512"),
)


def pss(pid: int) -> dict[str, int]:
    """A process' share of the memory it uses, by kind, in bytes."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0].startswith("Pss")}


class Sampler:
    """Samples of the PSS of some processes together, taken beside while the context is open.

    Attributes:
        most: the largest, by kind.
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self.most: dict[str, int] = {"Pss": 0}
        self._pids, self._over = pids, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            every = []
            for pid in self._pids():
                with contextlib.suppress(OSError):  # it has ended
                    every.append(pss(pid))
            total = {kind: sum(one.get(kind, 0) for one in every) for kind in (every or [{}])[0]}
            self.most = max(self.most, total, key=lambda sample: sample.get("Pss", 0))


def launch(ranks: int, overrides: list[str]) -> dict:
    """What the main job took and what was reckoned, saving included. SystemExit with what it said where it fails."""
    from ryzen_mpi.model.transformer import parameter_count
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.memory import need

    settings = load_settings("default", overrides)
    with tempfile.TemporaryDirectory(prefix="memory-", dir="/var/tmp") as folder:
        words = ["--run-dir", f"{folder}/run", *overrides]
        command = ["mpirun", "-np", str(ranks), sys.executable, "-m", "ryzen_mpi.train", *words]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with Sampler(lambda: descendants(job.pid)) as sampler:
            said, _ = job.communicate()
    if job.returncode:
        sys.exit(f"{' '.join(overrides)} failed:\n{said}")
    reckoned = need(settings, ranks).node
    return {"parameters": parameter_count(settings), "ranks": ranks, "reckoned": reckoned, **sampler.most}


def descendants(pid: int) -> list[int]:
    """Processes that `pid` has started, and those that they have."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    cases = [("", options.ranks, " ".join(options.overrides))] if options.overrides else CASES
    rows = []
    for shape, ranks, words in cases:
        overrides = f"{COMMON} {SHAPES.get(shape, '')} {words}".split()
        found = launch(ranks, overrides)
        rows.append(
            {"case": f"{shape} {words}".strip(), **found, "bytes_a_parameter": found["Pss"] / found["parameters"]}
        )
        share = found["reckoned"] / found["Pss"]
        print(f"{rows[-1]['case']}, {ranks} ranks: {found['Pss'] / 2**20:.0f} MiB, "
              f"{rows[-1]['bytes_a_parameter']:.1f} B a parameter, {share:.2f} of it reckoned", flush=True)  # fmt: skip
    if options.save:
        print(f"kept in {common.save('memory', {'rows': rows})}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
