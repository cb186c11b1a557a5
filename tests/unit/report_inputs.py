"""What reports are made of, for their tests: written by the writers that write it in earnest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from metrics_records import LAYERS, step_record

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.record import EvaluationRecord, StepRecord
from ryzen_mpi.report.results_facts import ResultsFacts, read_results
from ryzen_mpi.report.run_facts import Place, RunFacts, Steps, batches
from ryzen_mpi.validation.result import Findings, Measured, Result, not_measurable, seal

MARKUP = "<script>alert('x')</script> & $x_{1}$ **b** | c"
BEGAN = 1.7e9
NOW = BEGAN + 400


def record(step: int, ranks: int = 4, slow: Mapping[int, float] | None = None, **changes: Any) -> StepRecord:
    """A step of about 0.2 s that learns; rank r computes `slow[r]` times as long, and all wait for the slowest."""
    rng = np.random.default_rng(step)
    work = 0.18 * (1 + 0.01 * rng.standard_normal(ranks))
    work *= [(slow or {}).get(rank, 1.0) for rank in range(ranks)]
    whole = work.max() + 0.012
    values = {
        "wall_time_s": BEGAN + 0.25 * step,
        "loss": 2.2 + 3.3 * math.exp(-step / 90) + 0.03 * rng.standard_normal(),
        "step_s": whole,
        "communication_s": float(np.mean(whole - work)),
        "rank_step_s": tuple(float(whole) for _ in work),
        "rank_communication_s": tuple(float(whole - one) for one in work),
        "skipped": False,
    }
    return step_record(step, ranks, **values | changes)


def steps(rows: list[StepRecord]) -> Steps:
    """The rows as a report has them."""
    width = max(row.ranks for row in rows)

    def column(name: str) -> np.ndarray:
        if not name.startswith("rank_"):
            return np.array([getattr(row, name) for row in rows])
        return np.array([[*getattr(row, name), *[math.nan] * (width - row.ranks)] for row in rows])

    names = set(Steps.__dataclass_fields__) - {"batch"}
    return Steps(batch=batches(column("step"), column("samples")), **{name: column(name) for name in names})


def places(cpus: list[set[int] | None], host: str = "node1", memory: int | None = 64 * 2**30) -> tuple[Place, ...]:
    return tuple(
        Place(rank, host, None if c is None else frozenset(c), c and len(c), memory) for rank, c in enumerate(cpus)
    )


def facts(count: int = 120, ranks: int = 4, slow: Mapping[int, float] | None = None, **changes: Any) -> RunFacts:
    """A run of `count` steps on cores of its own, nothing wrong with it, or what `changes` say."""
    rows = [record(step, ranks, slow) for step in range(1, count + 1)]
    values = {
        "path": Path("runs/example"),
        "settings": {"training": {"save_interval": 50}},
        "steps": steps(rows),
        "places": places([{2 * rank, 2 * rank + 1} for rank in range(ranks)]),
        "checkpoints": tuple((step, BEGAN + step) for step in range(50, count + 1, 50)),
        "sign_s": rows[-1].wall_time_s,
    }
    return RunFacts(**values | changes)


def write_run(path: Path, count: int = 240, host: str = "node1", complete: bool = True, fault: bool = True) -> Path:
    """A run directory: 4 ranks, rank 3 on the cores of rank 2 and slower for it, one fault survived at step 100."""
    path.mkdir(parents=True)
    if fault:
        voice = EventLog(path / "events", "supervisor")
        voice.event("attempt", "attempt 1: 4 ranks", dataset="supervisor", epoch=1, ranks=4)
        voice.close()
    (path / "config.yaml").write_text("training:\n  save_interval: 50\n  batch_size: 16\nmodel:\n  num_layers: 2\n")
    for rank in range(4):
        log = EventLog(path / "events", rank, {"node": host, "run": path.name, "epoch": "1"})
        cpus = f"{2 * min(rank, 2)}-{2 * min(rank, 2) + 1}"
        log.event("start", f"rank {rank} of 4 at step 0", step=0, ranks=4, cpus=cpus, threads=2)
        if rank == 0:
            sink = Hdf5Sink(path / "metrics.h5", 4, LAYERS)
            for step in range(1, count + 1):
                one = record(step, slow={3: 1.14})
                sink.write(one)
                log.write(one)
                if step % 60 == 0:
                    sink.write(EvaluationRecord(step, 2.3 + 3.3 * math.exp(-step / 90), 0.4))
            sink.close()
        log.close()
    if fault:
        _write_fault(path, host)
    for step in range(50, count + 1, 50):
        folder = path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    if complete:
        summary = {"steps": count, "samples": 64 * count, "seconds": 75.0, "checkpoint_held_s": 0.3, "ranks": 4}
        (path / "COMPLETE.json").write_text(json.dumps(summary))
    return path


def _write_fault(path: Path, host: str) -> None:
    voice = EventLog(path / "events", "supervisor")
    text = f"crashed: rank 2 on {host} was killed by SIGKILL (noticed after 12 ms, ended in 0.3 s)"
    voice.event("fault", text, "warning", dataset="supervisor", epoch=1, cause="crashed", rank=2, node=host)
    voice.event("attempt", "attempt 2: 4 ranks", dataset="supervisor", epoch=2, ranks=4)
    voice.close()
    log = EventLog(path / "events", 0, {"node": host, "epoch": "2"})
    log.event("start", "rank 0 of 4 at step 100", step=100, ranks=4, cpus="0-1", threads=2)
    log.close()
    (path / "supervisor").mkdir()
    account = {"attempts": 2, "faults": 1, "total_s": 80.0, "productive_s": 71.0, "ettr": 0.8875, "steps": 240}
    (path / "supervisor" / "summary.json").write_text(json.dumps(account))


# -- scaling ----------------------------------------------------------------------------------------------------------


def figure(value: float, unit: str, spread: float = 0.02, n: int = 7) -> dict[str, Any]:
    ends = {"low": value * (1 - spread), "high": value * (1 + spread)}
    return {"value": value, **ends, "n": n, "unit": unit, "confidence": 0.95}


def scaling(problems: tuple[str, ...] = (), oversubscribed: bool = False, launches: int = 7) -> dict[str, Any]:
    """A scaling report of 1, 2 and 4 ranks whose communication costs what a small model's does."""

    def series(mode: str) -> dict[str, Any]:
        points = []
        for number, ranks in enumerate((1, 2, 4)):
            balance, communication, computation = 1 - 0.01 * number, 1 - 0.05 * number, 1 - 0.02 * number
            efficiency = balance * communication * computation
            shares = {"load_balance": balance, "communication_efficiency": communication}
            points.append(
                {
                    "ranks": ranks,
                    "nodes": 1,
                    "global_batch": 64,
                    "samples": 4096,
                    "launches": launches,
                    "explained": None,
                }
                | {"throughput": figure(75 * ranks * efficiency, "samples/s")}
                | {"speedup": figure(ranks * efficiency, "1"), "efficiency": figure(efficiency, "1")}
                | {name: figure(value, "1", 0.01) for name, value in shares.items()}
                | {"computation_scaling": figure(computation, "1", 0.01)}
                | {"communication_share": figure(0.05 * number, "1")}
                | {"computation_s": figure(50 / ranks, "s"), "communication_s": figure(2 * number, "s")}
            )
        return {"mode": mode, "points": points}

    return {
        "format": 1,
        "made": NOW,
        "machine": {"cpu": "AMD EPYC", "cores": 8, "host": MARKUP},
        "profile": "scaling_benchmark",
        "overrides": [],
        "headline": "strong scaling reaches 86.4 % on 4 ranks",
        "problems": list(problems),
        "oversubscribed": oversubscribed,
        "strong": series("strong"),
        "weak": series("weak"),
        "launches": [_launch(number, ranks) for number, ranks in enumerate((1, 2, 4, 4, 2, 1))],
        "insufficient": [],
        "disturbed": [],
        "failed": [],
        "loss_table": {
            "global_batch": 64,
            "losses": {str(ranks): [7.6 - 0.1 * step for step in range(12)] for ranks in (1, 2, 4)},
            "largest_difference": 2.3e-7,
            "tolerance": 1e-5,
        },
    }


def _launch(number: int, ranks: int) -> dict[str, Any]:
    computation = [50 / ranks * (1 + 0.02 * rank) for rank in range(ranks)]
    whole = max(computation) + 2
    return {
        "number": number, "mode": "strong", "ranks": ranks, "nodes": 1, "threads": [1] * ranks, "measured_s": whole,
        "samples": 4096, "waited_share": 0.001, "rank_s": [whole] * ranks, "rank_computation_s": computation,
        "rank_communication_s": [whole - one - 0.4 for one in computation],
    }  # fmt: skip


# -- results ----------------------------------------------------------------------------------------------------------


def result(check: str, number: int, *figures: Measured, ended: float = NOW, **changes: Any) -> Result:
    findings = {
        name: changes.pop(name) for name in ("problems", "evidence", "details", "impossible") if name in changes
    }
    values = {
        "check": check, "phase": "2a", "campaign": "c1", "number": number, "status": "measured", "message": "",
        "began": ended - 12, "ended": ended, "rerun": f"ryzen-mpi validate 2a --only {check}",
        "conditions": {"ranks": 8}, "findings": Findings(figures=figures, **findings),
    }  # fmt: skip
    return Result(**values | changes)


def pairs(ranks: int = 8) -> dict[str, Any]:
    """Two nodes of four ranks; the link of rank 5 is slow."""
    hosts = ["node1"] * (ranks // 2) + ["node2"] * (ranks - ranks // 2)
    latency = [
        [math.nan if i == j else 0.6 if hosts[i] == hosts[j] else 32.0 for j in range(ranks)] for i in range(ranks)
    ]
    rates = [
        [math.nan if i == j else 9000.0 if hosts[i] == hosts[j] else 900.0 for j in range(ranks)] for i in range(ranks)
    ]
    for other in range(ranks // 2):
        rates[5][other] = 410.0
    return {"hosts": hosts, "latency_us": latency, "send_mib_s": rates}


def verdict(word: str = "NO-GO", throughput: float = 463.0, **changes: Any) -> dict[str, Any]:
    """A gate's verdict of phase 2a with a row of every kind."""

    def row(check: str, name: str, value: float | None, unit: str, threshold: str, verdict: str, reason: str = ""):
        edges = {} if value is None else {"low": value * 0.98, "high": value * 1.02}
        known = {"check": check, "figure": name, "value": value, "low": None, "high": None, "n": 12 if value else 0}
        return known | edges | {
            "unit": unit, "threshold": threshold, "verdict": verdict, "source": "sound", "reason": reason
        }  # fmt: skip

    rows = [
        row("scaling", "throughput", throughput, "samples/s", ">= 500 samples/s", "not met", "7.4 % below"),
        row("scaling", "efficiency", 91.3, "%", ">= 85 %", "met"),
        row("scaling", "communication_share", 8.1, "%", "<= 15 %", "excellent"),
        row("network", "latency", 64.0, "us", "<= 100 us", "met"),
        row("network", "loss", 0.0, "%", "<= 0 %", "met"),
        row("soak", "duration", 0.5, "h", ">= 48 h", "too short", "30 min of 48 h"),
        row("reliability", "recovery", None, "s", "<= 30 s", "missing", "the check was not run"),
        row("thermal", "temperature", None, "degC", "<= 85 degC", "not measurable", "no sensor here"),
    ]
    reasons = ["scaling: throughput 463 samples/s is below 500 samples/s", "soak: 30 min of 48 h"]
    return {"format": 1, "phase": "2a", "set": "sound", "verdict": word, "reasons": reasons, "rows": rows} | changes


def write_results(path: Path, ended: float = NOW, judged: Mapping[str, Any] | None = None) -> Path:
    """A results folder with a good result, one that found a problem, one that crashed, and one that was edited."""
    (path / "results").mkdir(parents=True)
    (path / "campaign.json").write_text(json.dumps({"identity": "c1", "phase": "2a", "began": BEGAN}))
    made = [
        result("network", 0, Measured("latency", 64.0, "us", 56, 61.0, 67.0), ended=ended, details={"pairs": pairs()}),
        result(
            "gradient_sync", 1, Measured("accuracy", 99.2, "%", 500, 98.9, 99.5), ended=ended,
            problems=["rank 2 differs from rank 0 at step 7 in element 17"], evidence=[f"host {MARKUP}"],
        ),
        result("thermal", 2, not_measurable("temperature", "degC", "no sensor in /sys/class/hwmon"), ended=ended),
        result("reliability", 3, status="timeout", message="not done after 120 s", ended=ended),
    ]  # fmt: skip
    for one in made:
        (path / "results" / f"{one.number:04d}-{one.check}.json").write_text(json.dumps(seal(one)))
    edited = seal(result("hardware", 4, Measured("cores", 4.0, "1")))
    edited["findings"]["figures"][0]["value"] = 32.0
    (path / "results" / "0004-hardware.json").write_text(json.dumps(edited))
    if judged is not None:
        (path / "verdict.json").write_text(json.dumps(judged))
    return path


def kept_verdict(phase: str, folder: Path) -> dict[str, Any]:
    """A judge for `read_results`: the verdict that `write_results` was given, as if the gate had said it."""
    if not (folder / "verdict.json").exists():
        raise UserError("nothing was judged")
    return json.loads((folder / "verdict.json").read_text())


def read(folder: Path) -> ResultsFacts:
    return read_results(folder, kept_verdict)
