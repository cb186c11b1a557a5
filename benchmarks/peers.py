"""Ours against its peers: samples a second, memory of the node, and the optimiser step.

    env/run env RYZEN_MPI_WITHOUT_KERNEL=1 pip install --no-build-isolation -c env/constraints.txt -e '.[peers]'
    python benchmarks/peers.py --list
    python benchmarks/peers.py --case scaling --peer plain-ddp --model plain --save
    python benchmarks/peers.py --case scaling --peer accelerate,fabric,deepspeed --save
    python benchmarks/peers.py --case 98m --ranks 4 --peer plain-ddp,zero-redundancy,fsdp2,deepspeed --save
    python benchmarks/peers.py --case 98m --against hardware.weights_per=rank --save

Every side is a job of `mpirun` of its own, on the same cores, one core a rank, one thread. In a round ours and the
peer run after each other, in turns first; the side that does not run takes no core. Two rounds of warm-up are dropped.
A peer has two models to choose from (peer_sides/models.py) and gets the faster one. With --against the peer is ours
again, with other settings. In every round the ranks also multiply large square bfloat16 matrices, all at once: what
share of that speed a side's steps reach, counting the operations that the model needs, is a figure too.

Memory is PSS, summed over the ranks, at its largest during the fourth step of each side, which has the machine for
itself. A peer's speed is measured with glibc told to keep freed memory (as ours does, and as PyTorch's tuning guide
would have an allocator do), its memory with glibc as it is: each the better for the peer. A peer that cannot run here
is told with its own error, and the exit code is 1. Runs on an idle machine only, but for memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import common
from peer_sides.cases import CASES, PEERS, case_settings
from peer_sides.job import Job, SideError
from peer_sides.matmul import matmul_flops

WARM_UP, MEMORY_STEPS, UPDATES, MATMULS = 2, 3, 2, 3
KINDS = ("plain", "handwritten")
DISTRIBUTIONS = {"accelerate": "accelerate", "fabric": "lightning", "deepspeed": "deepspeed"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show cases and peers")
    parser.add_argument("--case", choices=CASES, default="scaling", help="what is trained")
    parser.add_argument("--peer", type=names, default=list(PEERS), metavar="NAME[,NAME]", help="default: all")
    parser.add_argument("--against", type=str.split, default=[], metavar="'SECTION.KEY=VALUE...'", help="ours, so")
    parser.add_argument("--model", choices=["faster", *KINDS], default="faster", help="of the peer")
    parser.add_argument("--zero-stage", type=int, choices=[0, 1, 2], help="of ours; default: as the case has it")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="alternations of the sides")
    parser.add_argument("--steps", type=int, default=6, help="steps of a side in a round")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a side may take to answer")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/peers.json")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--glibc-as-it-is", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="for both sides")
    return parser.parse_args()


def names(text: str) -> list[str]:
    """Peers by name, as --peer takes them. Pure."""
    found = text.split(",")
    if unknown := [name for name in found if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return found


def launch_command(side: str, kind: str, options: argparse.Namespace, cores: int, *more: str) -> list[str]:
    """The mpirun of a side. Ours binds itself where mpirun did not; a peer is bound where the cores suffice. Pure."""
    if side == "ours":
        binding = []
    elif options.ranks <= cores:
        binding = ["--bind-to", "core"]
    else:
        binding = ["--bind-to", "none", "--oversubscribe"]
    stage = [] if options.zero_stage is None else ["--zero-stage", str(options.zero_stage)]
    inside = ["--side", side, "--case", options.case, "--model", kind, *stage, *more]
    return ["mpirun", "-np", str(options.ranks), *binding, sys.executable, __file__, *inside]


def alternate(sides: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """What every side answered in every round after the warm-up. Each side is first in every other round."""
    answers: dict[str, list[dict]] = {name: [] for name in sides}
    for number in range(rounds + WARM_UP):
        for name in sorted(sides, reverse=bool(number % 2)):
            found = sides[name]()
            if number >= WARM_UP:
                answers[name].append(found)
    return answers


def seconds(answers: list[dict]) -> list[float]:
    """All seconds, round after round. Pure."""
    return [second for answer in answers for second in answer["seconds"]]


def check_losses(name: str, answers: list[dict]) -> list[float]:
    """First and last loss of a side. Raises SideError where one is not finite: such a side has not trained. Pure."""
    losses = [loss for answer in answers for loss in answer["losses"]]
    if not all(map(math.isfinite, losses)):
        raise SideError(f"{name}: its loss was not finite, so its speed means nothing")
    return [losses[0], losses[-1]]


class Comparison:
    """Ours and one peer, at the settings of `options`."""

    def __init__(self, peer: str, options: argparse.Namespace) -> None:
        from ryzen_mpi.cluster.topology import read_topology

        self.peer, self.options = peer, options
        self.cores = len(read_topology(os.sched_getaffinity(0)).cores)
        self.settings = case_settings(options.case, options.zero_stage, options.overrides)
        self.samples = self.settings.training.batch_size * options.ranks

    def start(self, role: str, kind: str = KINDS[0], *flags: str) -> Job:
        """The job of `ours` or of the `peer`, up and ready. Raises SideError."""
        side, words = "ours", self.options.overrides
        if role == "peer":
            side, words = self.peer, [*words, *self.options.against]
        return Job(role, launch_command(side, kind, self.options, self.cores, *flags, *words), self.options.timeout)

    def measure(self) -> dict[str, Any]:
        """All figures. Raises SideError."""
        kind, trials = self.choose_model()
        memory = {role: self.memory(role, kind) for role in ("ours", "peer")}
        with self.start("ours") as ours, self.start("peer", kind) as peer:
            jobs = {"ours": ours, "peer": peer}
            found = {name: job.ready["parameters"] for name, job in jobs.items()}
            if len(set(found.values())) > 1:
                raise SideError(f"{self.peer} trains another model: {found} parameters")
            asks = {name: lambda job=job: job.ask(f"run {self.options.steps}") for name, job in jobs.items()}
            runs = alternate(asks | {"matmul": lambda: ours.ask(f"matmul {MATMULS}")}, self.options.rounds)
            asks = {name: lambda job=job: job.ask(f"update {UPDATES}") for name, job in jobs.items()}
            updates = alternate(asks, self.options.rounds)
            cpus = {name: job.ready["cpus"] for name, job in jobs.items()}
        speed = matmul_flops(1) / statistics.median(seconds(runs.pop("matmul")))
        figures = self.figures(runs, updates, memory, found["ours"]) | self.shares(runs, speed)
        return {"model": kind, "model_trials_s": trials, **figures, "cpus": cpus}

    def shares(self, runs: dict, speed: float) -> dict[str, float]:
        """A rank's matmul speed in floating-point operations a second, and the share of it that both sides reach."""
        from ryzen_mpi.training.plan import work

        needed = work(self.settings, self.options.ranks, 1).flops / self.options.ranks
        reached = {f"{name}_share_of_matmul": needed / statistics.median(seconds(runs[name])) / speed for name in runs}
        return {"matmul_flops_per_s": speed, **reached}

    def choose_model(self) -> tuple[str, dict[str, float]]:
        """The kind of model the peer is faster with, and the seconds a step of each that was tried."""
        if self.options.model != "faster" or self.peer == "ours":
            return self.options.model, {}
        trials = {}
        for kind in KINDS:
            with self.start("peer", kind) as job:
                job.ask(f"run {WARM_UP}")
                trials[kind] = statistics.median(job.ask(f"run {self.options.steps}")["seconds"])
        return min(trials, key=trials.__getitem__), trials

    def memory(self, role: str, kind: str) -> dict[str, int]:
        """PSS of all ranks of a side that has the machine for itself: what two sides map alike is counted once each."""
        ours = role == "ours" or self.peer == "ours"
        with self.start(role, kind, *([] if ours else ["--glibc-as-it-is"])) as job:
            job.ask(f"run {MEMORY_STEPS}")
            return job.ask("memory")

    def figures(self, runs: dict, updates: dict, memory: dict, parameters: int) -> dict[str, Any]:
        """What the answers amount to."""
        from dataclasses import asdict

        from ryzen_mpi.figures import median

        rounds, a_parameter = self.options.rounds, {n: found["Pss"] / parameters for n, found in memory.items()}
        return {
            "parameters": parameters,
            "ours_samples_per_s": common.rate(seconds(runs["ours"]), self.samples),
            "peer_samples_per_s": common.rate(seconds(runs["peer"]), self.samples),
            "times_as_fast": common.ratio(seconds(runs["peer"]), seconds(runs["ours"]), rounds),
            "ours_update_s": asdict(median(seconds(updates["ours"]))),
            "peer_update_s": asdict(median(seconds(updates["peer"]))),
            "update_times_as_fast": common.ratio(seconds(updates["peer"]), seconds(updates["ours"]), rounds),
            "ours_bytes_a_parameter": a_parameter["ours"],
            "peer_bytes_a_parameter": a_parameter["peer"],
            "memory_ratio": a_parameter["ours"] / a_parameter["peer"],
            "losses": {name: check_losses(name, answers) for name, answers in runs.items()},
            "waited_for_a_core": {name: max(one["waited"] for one in answers) for name, answers in runs.items()},
            "memory": memory,
        }


def versions(peer: str) -> dict[str, str]:
    """Of PyTorch and of the peer's package."""
    found = {}
    for package in ("torch", *filter(None, [DISTRIBUTIONS.get(peer)])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def show(title: str, figures: dict[str, Any]) -> None:
    """Prints the figures of one comparison."""
    print(title)
    for name, figure in figures.items():
        if isinstance(figure, dict) and "low" in figure:
            value = figure.get("value", figure.get("ratio"))
            print(f"  {name:24} {value:10.4g}  ({figure['low']:.4g} to {figure['high']:.4g})")
        elif isinstance(figure, float):
            print(f"  {name:24} {figure:10.4g}")
        elif name != "memory":
            print(f"  {name:24} {figure}")
    print(flush=True)


def keep(rows: dict[str, dict], path: Path) -> dict[str, dict]:
    """Earlier comparisons of `path` with those of `rows` in place of their predecessors."""
    earlier = json.loads(path.read_text()).get("comparisons", {}) if path.exists() else {}
    return earlier | rows


def main() -> int:
    options = arguments()
    if options.side:
        from peer_sides.serve import serve

        settings = case_settings(options.case, options.zero_stage, options.overrides)
        serve(options.side, settings, options.model, options.glibc_as_it_is)
        return 0
    if options.list:
        print("cases:", *CASES, "\npeers:")
        print(*(f"  {name:16} {text} ({versions(name)})" for name, text in PEERS.items()), sep="\n")
        return 0
    if not shutil.which("mpirun"):
        sys.exit("there is no mpirun; env/run brings one")
    rows, failed = {}, False
    for peer in ["ours"] if options.against else options.peer:
        what = {"ranks": options.ranks, "steps": options.steps, "overrides": options.overrides}
        row = {"when": time.strftime("%Y-%m-%d"), "versions": versions(peer), **what}
        try:
            row |= Comparison(peer, options).measure()
        except SideError as error:
            row["error"], failed = str(error), True
        name = f"{options.case}, {options.ranks} ranks, {' '.join([peer, *options.against])}"
        if options.overrides or options.zero_stage is not None:
            stage = [] if options.zero_stage is None else [f"stage {options.zero_stage}"]
            name += f" ({' '.join([*stage, *options.overrides])})"
        rows[name] = row
        print(f"{name}\n{row['error']}\n", flush=True) if "error" in row else show(name, row)
        if options.save:
            path = common.save("peers", {"comparisons": keep(rows, common.RESULTS / "peers.json")})
            print(f"kept in {path.relative_to(common.RESULTS.parent.parent)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
