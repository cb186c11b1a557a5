"""Other numbers of ranks, and other checkpoints, while a run trains: `ryzen-mpi resize` and `ryzen-mpi rollback`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from launch import Job, checkpoint_steps, metrics, mpirun, overrides, planted, run, train
from supervised import gone, records, said, supervise, supervised

STEPS, INTERVAL, BATCH = 300, 20, 12
WORDS = overrides(
    training__max_steps=STEPS,
    training__save_interval=INTERVAL,
    training__keep_checkpoints=STEPS,
    training__batch_size=None,
    training__global_batch=BATCH,
    data__num_samples=STEPS * BATCH,
)
SLOW = "sleep:0.03"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The losses of a run of one rank that nobody interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(mpirun(1, *train(folder / "run", *WORDS)), folder).succeeded()
    return metrics(folder / "run")["training/loss"]


def ask(path: Path, *words: str) -> Job:
    """`ryzen-mpi WORDS` of the run at `path`, to its end."""
    return run([sys.executable, "-m", "ryzen_mpi", words[0], str(path), *words[1:]], path.parent, 60)


def refused(path: Path, *words: str) -> str:
    """What a request that cannot be met is answered: one line, exit code 2."""
    job = ask(path, *words)
    assert job.code == 2 and job.err.count("error:") == 1 and "Traceback" not in job.err, job.said()
    return job.err


def all_samples_once(path: Path, losses: np.ndarray) -> None:
    """Asserts that the run at `path` trained what an uninterrupted one trains."""
    gone(path)
    held = metrics(path)
    assert held["training/step"].tolist() == list(range(1, STEPS + 1))
    assert held["training/samples"].tolist() == list(range(BATCH, BATCH * STEPS + 1, BATCH))
    assert np.abs(held["training/loss"] - losses).max() < 1e-9


def trains(job: Job, path: Path) -> None:
    """Waits until the attempt that runs has saved something of its own."""
    step = max(checkpoint_steps(path), default=0)
    job.wait_for(lambda: max(checkpoint_steps(path), default=0) >= step + INTERVAL)


def test_a_run_goes_from_one_rank_to_two_and_back_and_trains_every_sample_once(uninterrupted, tmp_path):
    path = tmp_path / "run"
    one = [word if word != "2" else "1" for word in mpirun(2)[:3]]  # one rank under a launcher
    command = supervise(path, [*one, *mpirun(2, *planted(None, *WORDS))[3:]], "--ranks-per-node", "2")
    job = Job(command, tmp_path, PLANTED=SLOW)
    trains(job, path)
    assert "there are 1 ranks already" in refused(path, "resize", "1")
    assert "5 ranks asked for, 1 nodes of 2 hold 2" in refused(path, "resize", "5")
    grown = ask(path, "resize", "2", "--why", "a node is free").succeeded()
    assert grown.out.startswith("2 ranks train from step "), grown.said()
    trains(job, path)
    shrunk = ask(path, "resize", "1").succeeded()
    assert shrunk.out.startswith("1 ranks train from step "), shrunk.said()
    job.wait().succeeded()
    assert [(a["ranks"], a["end"]) for a in records(path)] == [(1, "stopped"), (2, "stopped"), (1, "complete")]
    asked = said(path, "resize")
    assert [(event["ranks"], event["why"]) for event in asked] == [(2, "a node is free"), (1, "")]
    all_samples_once(path, uninterrupted)
    assert "no supervisor is at work" in refused(path, "resize", "2")


def test_a_rollback_halves_the_ranks_and_another_goes_back_to_a_checkpoint(uninterrupted, tmp_path):
    path = tmp_path / "run"
    job = supervised(path, 2, *planted(None, *WORDS), PLANTED=SLOW)
    trains(job, path)
    halved = ask(path, "rollback", "--why", "half of the network is slow").succeeded()
    assert halved.out.startswith("1 ranks train from step "), halved.said()
    trains(job, path)
    assert "there is no checkpoint of step 7; there are: step-00000020, " in refused(
        path, "rollback", "--to", "7", "--why", "x"
    )
    back = ask(path, "rollback", "--to", "20", "--processes", "2", "--why", "bad samples").succeeded()
    assert back.out.startswith("2 ranks train from step 20,"), back.said()
    job.wait().succeeded()
    first, second, third = records(path)
    assert [a["ranks"] for a in (first, second, third)] == [2, 1, 2] and third["resumed"] == 20
    aside = {entry.name.partition(".")[0] for entry in (path / "checkpoints/set-aside").iterdir()}
    assert {f"step-{step:08d}" for step in (40, second["step"])} <= aside, aside
    events = [(event["ranks"], event["why"]) for event in said(path, "rollback")]
    assert events == [(1, "half of the network is slow"), (2, "bad samples")]
    all_samples_once(path, uninterrupted)
