"""Supervised jobs in the lab: how they are submitted, where their ranks are, and what they leave behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ryzen_mpi.metrics.events import read_events
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.training.checkpoint_reading import find_checkpoints
from tests.lab.cluster import Cluster
from tests.lab.slurm import ENDED, Job

REPO = Path(__file__).parents[2]
PROFILE = """\
data: {source: markov, num_samples: 400000}
model: {vocab_size: 32, embedding_dim: 32, num_heads: 2, num_layers: 1, feed_forward_dim: 64, seq_length: 24}
training:
  global_batch: 24
  learning_rate: 0.01
  max_steps: 800
  save_interval: 50
  eval_interval: 100000
  eval_samples: 32
  log_interval: 10
hardware: {dtype: float64, num_threads: 1}
"""
SAVE_INTERVAL = 50
LIMIT_S = 240.0
BATCH = """\
#!/bin/bash
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks_per_node}
#SBATCH --exclusive
#SBATCH --time=30:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output={output}
# The hosts share this machine's cores: a rank that spins takes another's.
export OMPI_MCA_mpi_yield_when_idle=1
exec {repo}/env/run python -m ryzen_mpi.supervise --ranks-per-node {ranks_per_node} {options} -- {launcher} \
    python {program} --config {profile} --run-dir {run} {words}
"""


class LabJob:
    """A supervised run in the lab. Made with `submit`."""

    def __init__(self, lab: Cluster, number: int, run: Path, output: Path) -> None:
        self.lab, self.number, self.run, self.output = lab, number, run, output

    # -- Slurm --------------------------------------------------------------------------------------------------------

    def state(self) -> Job:
        return self.lab.job(self.number)

    def wait(self, states: str | tuple[str, ...] = ENDED, limit_s: float = LIMIT_S) -> Job:
        """Until Slurm says so. AssertionError with what the job printed otherwise."""
        try:
            return self.lab.wait_job(self.number, states, limit_s)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.said()}") from error

    def wait_for(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Until `condition` holds. AssertionError with what the job printed where it never does."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"what was waited for did not come\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        """What the job printed, without the progress of the training."""
        text = self.output.read_text(errors="replace") if self.output.exists() else "(nothing)"
        return "\n".join(line for line in text.splitlines() if line.strip() and not line.startswith("step "))[-8000:]

    # -- processes ----------------------------------------------------------------------------------------------------

    def ranks(self) -> dict[int, tuple[str, int]]:
        """Host and pid (outside of the lab) of every training process, by rank."""
        found = {}
        for host in self.lab.nodes:
            for process in self.lab.processes(host):
                if "--run-dir" in process.argv and not {"ryzen_mpi.supervisor.guard", "--"} & set(process.argv):
                    rank = _variable(process.pid, "PMIX_RANK")
                    if rank is not None:
                        found[int(rank)] = (host, process.pid)
        return found

    def wait_for_ranks(self, count: int) -> dict[int, tuple[str, int]]:
        """Until so many train."""
        self.wait_for(lambda: len(self.ranks()) == count)
        return self.ranks()

    def supervisor(self) -> tuple[str, int]:
        """Host and pid of the supervisor."""
        for host in self.lab.nodes:
            for process in self.lab.processes(host):
                if "ryzen_mpi.supervise" in process.argv:
                    return host, process.pid
        raise AssertionError(f"no supervisor runs\n{self.said()}")

    # -- the run directory --------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Step of the newest checkpoint; 0 before the first."""
        return max((int(path.name.rpartition("-")[2]) for path in self._checkpoints()), default=0)

    def _checkpoints(self) -> list[Path]:
        return [path for path in find_checkpoints(self.run / "checkpoints") if path.name.startswith("step-")]

    def events(self, action: str) -> list[dict]:
        """The supervisor's events of that action: figures, `message` and `time`."""
        path = self.run / "events/supervisor.jsonl"
        found = [event for event in read_events(path) if event["event"]["action"] == action] if path.exists() else []
        return [e.get("ryzen", {}) | {"message": e["message"], "time": e["@timestamp"]} for e in found]

    def records(self) -> list[dict]:
        """The attempts as the supervisor keeps them."""
        path = self.run / "supervisor/state.json"
        return json.loads(path.read_text())["records"] if path.exists() else []

    def faults(self) -> list[dict]:
        return [record for record in self.records() if record["end"] == "fault"]

    def summary(self) -> dict:
        return json.loads((self.run / "supervisor/summary.json").read_text())

    def complete(self) -> dict | None:
        path = self.run / "COMPLETE.json"
        return json.loads(path.read_text()) if path.exists() else None

    def final(self) -> dict[str, bytes]:
        """The newest checkpoint's tensor files, byte for byte."""
        return {path.name: path.read_bytes() for path in sorted(self._checkpoints()[0].glob("*.safetensors"))}

    def metrics(self) -> dict[str, np.ndarray]:
        return read_metrics(self.run / "metrics.h5")

    # -- what holds after every recovery ------------------------------------------------------------------------------

    def recovered(self) -> list[dict]:
        """Asserts that the run completed, every step once, with no more repeated than a save interval; its attempts."""
        summary, records = self.complete(), self.records()
        assert summary is not None, self.said()
        assert summary["epoch"] == records[-1]["epoch"], self.said()
        assert self.metrics()["training/step"].tolist() == list(range(1, summary["steps"] + 1))
        for before, after in zip(records, records[1:], strict=False):
            if before["step"] >= 0 and after["resumed"] >= 0:
                assert before["step"] - after["resumed"] <= SAVE_INTERVAL, records
        self.lab.check_clean()
        return records


def submit(
    lab: Cluster,
    name: str,
    nodes: int,
    ranks_per_node: int,
    *words: str,
    options: str = "",
    launcher: str = "auto",
    program: str = "-m ryzen_mpi.train",
    sbatch: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> LabJob:
    """A supervised job of the small model. `words`: settings; `options`: of the supervisor; `sbatch`: of Slurm."""
    run, output = lab.shared / name, lab.shared / f"{name}.out"
    text = BATCH.format(
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        options=options,
        launcher=launcher,
        program=program,
        profile=profile(lab),
        run=run,
        words=" ".join(words),
        repo=REPO,
        output=output,
    )
    return LabJob(lab, lab.sbatch(text, options=sbatch, env=env), run, output)


def profile(lab: Cluster) -> Path:
    """The small profile, where all hosts see it."""
    path = lab.shared / "small.yaml"
    path.write_text(PROFILE)
    return path


def _variable(pid: int, name: str) -> str | None:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((pair.partition(b"=")[2].decode() for pair in pairs if pair.startswith(name.encode() + b"=")), None)
