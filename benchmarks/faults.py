"""Random faults, one after another, on one supervised run: does it survive them, how fast, and how much time is left.

    python benchmarks/faults.py [--faults 100] [--seed 1] [--ranks 2] [--save]

A small model trains under the supervisor. Again and again something random is done to it (see KINDS), as soon as the
attempt before has saved a checkpoint. A fault is survived when another attempt trains from the newest checkpoint on
without a person. At the end the run is brought to its end, and every step must be there once. 100 take a quarter hour.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import psutil

from ryzen_mpi.figures import median
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.files import Files
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.supervisor.state import load_state

TIMEOUT_S = 5.0
MODEL = (
    *("data.source=markov", "data.num_samples=100000000", "model.vocab_size=32", "model.embedding_dim=32"),
    *("model.num_heads=2", "model.num_layers=1", "model.feed_forward_dim=64", "model.seq_length=24"),
    *("training.batch_size=6", "training.schedule=constant", "training.save_interval=100", "training.log_interval=100"),
    *("training.eval_interval=100000000", "training.eval_samples=32", f"distributed.timeout_s={TIMEOUT_S:g}"),
)
LIMIT_S = 120.0
"""Seconds for an attempt to save a checkpoint: far more than a healthy one takes."""


class Victim:
    """The supervised run, seen from outside."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.run, self.ranks = folder / "run", ranks
        self.files = Files(RunDirectory(self.run))
        self.log = (folder / "supervisor.log").open("w")

    def start(self, *words: str) -> None:
        launch = ["mpirun", "-np", str(self.ranks), sys.executable, "-m", "ryzen_mpi.train", *MODEL, *words]
        command = [sys.executable, "-m", "ryzen_mpi.supervise", "--run-dir", str(self.run), "--", *launch]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def records(self) -> list[Record]:
        return load_state(self.files.state).records

    def wait(self, what: str, condition: Callable[[], object]) -> object:
        """The first true value of `condition`. SystemExit where it does not come."""
        end = time.monotonic() + LIMIT_S
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"not survived: {what} did not come; see {self.log.name}")
            time.sleep(0.02)
        return found

    def family(self) -> dict[str, list[psutil.Process]]:
        """What runs now: `launcher`, `guard` (each rank's two) and `rank`."""
        found: dict[str, list[psutil.Process]] = {"launcher": [], "guard": [], "rank": []}
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return found
        for process in children:
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if "ryzen_mpi.supervisor.guard" in line:
                name = "launcher" if Path(line[0]).name.startswith(("mpirun", "prte")) else "guard"
            else:
                name = "rank" if "ryzen_mpi.train" in line else ""
            if name:
                found[name].append(process)
        return found

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.files.run.checkpoints.glob(".epoch-*/.step-*partial*"))


def send(victims: list[psutil.Process], number: int) -> None:
    for process in victims:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def while_saving(victim: Victim, chance: random.Random) -> None:
    victim.wait("a checkpoint being written", victim.writing)
    send([chance.choice(victim.family()["rank"])], signal.SIGKILL)


def during_recovery(victim: Victim, chance: random.Random) -> None:
    known = len(victim.records())

    def all_there() -> bool:
        return len(victim.records()) > known and len(victim.family()["rank"]) == victim.ranks

    send([chance.choice(victim.family()["rank"])], signal.SIGKILL)
    victim.wait("another attempt", all_there)
    time.sleep(chance.uniform(0.0, 3.0))
    send([chance.choice(victim.family()["rank"] or victim.family()["guard"])], signal.SIGKILL)


def one(name: str, number: int) -> Callable[[Victim, random.Random], None]:
    return lambda victim, chance: send([chance.choice(victim.family()[name])], number)


KINDS: dict[str, tuple[int, Callable[[Victim, random.Random], None]]] = {
    "SIGKILL of a rank": (25, one("rank", signal.SIGKILL)),
    "SIGSEGV of a rank": (10, one("rank", signal.SIGSEGV)),
    "SIGABRT of a rank": (5, one("rank", signal.SIGABRT)),
    "SIGKILL of all ranks at once": (10, lambda victim, _: send(victim.family()["rank"], signal.SIGKILL)),
    "SIGSTOP of a rank": (20, one("rank", signal.SIGSTOP)),
    "SIGKILL of a guard": (10, one("guard", signal.SIGKILL)),
    "SIGKILL of mpirun": (8, one("launcher", signal.SIGKILL)),
    "SIGKILL while saving": (6, while_saving),
    "SIGKILL, and again during recovery": (6, during_recovery),
}
"""Name -> (weight, what is done)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    if options.faults < 1 or options.ranks < 2:
        parser.error("at least 1 fault, at least 2 ranks")
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    chance, victim = random.Random(options.seed), Victim(folder, options.ranks)
    victim.start("training.max_steps=100000000")
    rows = [strike(victim, chance, number, options.faults) for number in range(options.faults)]
    reached = finish(victim)
    figures = report(rows, json.loads(victim.files.summary.read_text()), reached, options)
    if options.save:
        print(f"kept in {common.save('faults', figures)}")


def strike(victim: Victim, chance: random.Random, number: int, count: int) -> dict:
    """One fault, once the newest attempt has saved; how long until another trains."""
    victim.wait("the first checkpoint of an attempt", lambda: trains(victim, None))
    kind = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    time.sleep(chance.uniform(0.0, 1.0))
    before, at = victim.records()[-1].epoch, time.time()
    KINDS[kind][1](victim, chance)
    last = victim.wait("an attempt that trains", lambda: trains(victim, before))
    recovered_s = last.started + last.first_step_s - at
    ended = [record for record in victim.records() if before <= record.epoch < last.epoch]
    steps = max(0, max(record.step for record in ended) - last.resumed)
    print(f"{number + 1}/{count}  {kind}: training again after {recovered_s:.1f} s, {steps} steps repeated", flush=True)
    return {"kind": kind, "recovered_s": recovered_s, "noticed_s": ended[-1].seen_s, "repeated": steps}


def trains(victim: Victim, after: int | None) -> Record | None:
    """The newest attempt where it has trained; with `after` None: where it has saved a checkpoint of its own."""
    records = victim.records() if victim.files.state.exists() else []
    last = records[-1] if records else None
    if last is None or last.first_step_s is None or last.end != "under way":
        return None
    newest = victim.files.newest_step()
    return last if (newest > last.resumed if after is None else last.epoch > after) else None


def finish(victim: Victim) -> int:
    """Stops the run, brings it to a near end, and looks at its record; returns its steps."""
    victim.process.send_signal(signal.SIGINT)
    assert victim.process.wait(LIMIT_S) == 75, victim.log.name
    reached = victim.files.newest_step() + 100
    victim.start(f"training.max_steps={reached}")
    assert victim.process.wait(LIMIT_S) == 0, victim.log.name
    steps = read_metrics(victim.run / "metrics.h5")["training/step"]
    assert np.array_equal(steps, np.arange(1, reached + 1)), "a step is missing, or there twice"
    return reached


def report(rows: list[dict], summary: dict, reached: int, options: argparse.Namespace) -> dict:
    """Prints the figures, and returns them."""
    times, count = np.array([row["recovered_s"] for row in rows]), len(rows)

    def noticed(*words: str) -> float:
        """Longest, of the kinds with one of `words`."""
        return max((r["noticed_s"] or 0.0 for r in rows if any(word in r["kind"] for word in words)), default=0.0)

    stop_s, guard_s = noticed("STOP"), noticed("guard")
    crash_s = noticed(*(kind for kind in KINDS if "STOP" not in kind and "guard" not in kind))
    # none of n failed: with 95 % confidence the share that would is below the p of (1 - p)^n = 0.05
    bound = 1 - math.exp(math.log(0.05) / count)
    figures = {
        "faults": count,
        "survived": count,
        "failure_bound_95": bound,
        "seed": options.seed,
        "ranks": options.ranks,
        "steps": reached,
        "recovery_p50_s": float(np.percentile(times, 50)),
        "recovery_p95_s": float(np.percentile(times, 95)),
        "recovery_median": vars(median(times)),
        "crash_noticed_max_s": crash_s,
        "stop_noticed_max_s": stop_s,
        "guard_noticed_max_s": guard_s,
        "repeated_max": max(row["repeated"] for row in rows),
        "ettr": summary["ettr"],
        "attempts": summary["attempts"],
        "total_s": summary["total_s"],
        "kinds": {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS},
        "rows": rows,
    }
    print(f"{count} of {count} survived: less than {100 * bound:.1f} % of such faults are not (95 % confidence)")
    print(f"training again after: p50 {figures['recovery_p50_s']:.1f} s, p95 {figures['recovery_p95_s']:.1f} s")
    print(f"noticed after: crash at most {crash_s:.2f} s, stop at most {stop_s:.1f} s, guard's end {guard_s:.1f} s")
    print(f"steps repeated after a fault: at most {figures['repeated_max']} of a save interval of 100")
    faults_s = summary["total_s"] / count
    print(f"ETTR {100 * summary['ettr']:.1f} % at a fault every {faults_s:.1f} s")
    return figures


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
