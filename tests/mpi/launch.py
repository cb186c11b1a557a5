"""Starting jobs of several ranks as a person does: real mpirun, real files, a time limit that only a hang reaches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.supervisor import leavings
from ryzen_mpi.training.checkpoint_reading import find_checkpoints

REPO = Path(__file__).parents[2]
HERE = Path(__file__).parent
LIMIT_S = 150.0
"""Far beyond what any job here takes on a busy machine."""

# Steps of a few milliseconds that learn, in float64 so that process counts can be compared.
SMALL = {
    "data.source": "markov",
    "data.num_samples": "20000",
    "model.vocab_size": "32",
    "model.embedding_dim": "32",
    "model.num_heads": "2",
    "model.num_layers": "1",
    "model.feed_forward_dim": "64",
    "model.seq_length": "24",
    "training.batch_size": "6",
    "training.learning_rate": "0.01",
    "training.max_steps": "40",
    "training.save_interval": "10",
    "training.eval_interval": "1000",
    "training.eval_samples": "32",
    "training.log_interval": "10",
    "hardware.dtype": "float64",
}


def overrides(**changes: object) -> list[str]:
    """`SMALL` as command-line words; `training__max_steps=3` changes `training.max_steps`, None leaves a key out."""
    values = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def environment(**changes: str) -> dict[str, str]:
    """What `env/run` sets for mpirun, for a caller without it; nothing of a launcher that started the tests."""
    drop = ("OMPI_COMM_", "PMIX_", "PRTE_LAUNCHED", "RYZEN_MPI_TEST", "TORCHELASTIC", "MASTER_", "GLOO_")
    base = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    base["PATH"] = f"{Path(sys.executable).parent}:{base.get('PATH', '')}"
    base["OMPI_MCA_osc"] = "^ucx"
    base["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    base["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), base.get("PYTHONPATH", "")]))
    if os.geteuid() == 0:
        for family in ("OMPI", "PRTE"):
            base |= {f"{family}_ALLOW_RUN_AS_ROOT": "1", f"{family}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return base | changes


def mpirun(ranks: int, *words: str) -> list[str]:
    """The command that starts `words` on `ranks` ranks; one rank starts without a launcher, which is quicker."""
    program = [sys.executable, *words]
    if ranks == 1:
        return program
    return [shutil.which("mpirun", path=environment()["PATH"]) or "mpirun", "-np", str(ranks), *program]


def train(run_dir: Path | str | None, *words: str, module: Sequence[str] = ("-m", "ryzen_mpi.train")) -> list[str]:
    """The program and arguments of the main job."""
    return [*module, *(["--run-dir", str(run_dir)] if run_dir else []), *words]


def planted(run_dir: Path | str | None, *words: str) -> list[str]:
    """The main job with what `planted.py` finds in the variable PLANTED."""
    return train(run_dir, *words, module=[str(HERE / "planted.py")])


class Job:
    """A started job: its process, in a session of its own so that all of it can be killed, and its output.

    What mpirun keeps while it runs lies in a folder of the job's own: one that was killed leaves it, and another one
    with its process number would not start beside that.
    """

    def __init__(self, command: Sequence[str], cwd: Path, **variables: str) -> None:
        self.command = list(command)
        self._kept = tempfile.TemporaryDirectory(prefix="mpirun-", ignore_cleanup_errors=True)
        variables = {leavings.BASE: self._kept.name} | variables
        self.process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.out = self.err = ""
        self.left: list[str] = []
        """Once it has ended: folders that a killed mpirun left."""

    def wait(self, limit_s: float = LIMIT_S) -> Job:
        """Until it ends. A job that does not is killed, and the test fails with what it said."""
        try:
            self.out, self.err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {limit_s} s\n{self.said()}") from None
        self._clear()
        return self

    def wait_for(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Until `condition` holds while the job runs."""
        end = time.monotonic() + limit_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"what was waited for did not come\n{self.said()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL to the launcher and all ranks, whatever sessions they are in."""
        import psutil

        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.kill()
        self.out, self.err = self.process.communicate(timeout=30)
        self._clear()

    def _clear(self) -> None:
        self.left = sorted(path.name for path in Path(self._kept.name).glob("ompi.*"))
        self._kept.cleanup()

    @property
    def code(self) -> int:
        return self.process.returncode

    def said(self) -> str:
        return f"$ {' '.join(self.command)}\n-> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    def succeeded(self) -> Job:
        assert self.code == 0, self.said()
        return self


def run(command: Sequence[str], cwd: Path, limit_s: float = LIMIT_S, **variables: str) -> Job:
    """Starts a job and waits for its end."""
    return Job(command, cwd, **variables).wait(limit_s)


def refused_with(job: Job, message: str) -> None:
    """Exit code 2, the message once, no traceback, nothing on standard output."""
    assert job.code == 2, job.said()
    assert job.err.count("error:") == 1 and job.err.count(message) == 1, job.said()
    assert "Traceback" not in job.err + job.out, job.said()


# -- what is left of a run --------------------------------------------------------------------------------------------


def checkpoint_steps(run_dir: Path) -> list[int]:
    return [int(re.search(r"step-(\d+)", path.name)[1]) for path in find_checkpoints(run_dir / "checkpoints")]


def checkpoint_bytes(run_dir: Path, step: int) -> dict[str, bytes]:
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def metrics(run_dir: Path) -> dict[str, np.ndarray]:
    return read_metrics(run_dir / "metrics.h5")


def events(run_dir: Path, rank: int = 0) -> list[dict]:
    lines = (run_dir / "events" / f"rank-{rank:04d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def of_action(run_dir: Path, rank: int, action: str) -> list[dict]:
    """The events of one action in a rank's log."""
    return [event for event in events(run_dir, rank) if event["event"]["action"] == action]
