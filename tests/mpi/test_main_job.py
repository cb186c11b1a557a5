"""The main job as a person starts it: `mpirun -np N python -m ryzen_mpi.train`, and what it leaves behind."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import launch
import numpy as np
import pytest
from launch import (
    Job,
    checkpoint_bytes,
    checkpoint_steps,
    events,
    metrics,
    mpirun,
    of_action,
    overrides,
    planted,
    refused_with,
    run,
    train,
)

from ryzen_mpi.training.checkpoint_reading import load_checkpoint, newest_good

STEPS = 300


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of two ranks that nobody disturbs; what others are compared with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = run(mpirun(2, *train(folder / "run", *overrides(training__max_steps=STEPS))), folder)
    return folder / "run", job


def test_a_run_leaves_what_its_run_directory_promises(undisturbed):
    path, job = undisturbed
    job.succeeded()
    assert {p.name for p in path.iterdir() if not p.name.startswith(".")} == {
        "COMPLETE.json",
        "checkpoints",
        "config.yaml",
        "events",
        "logs",
        "metrics.h5",
        "metrics.prom",
    }
    assert checkpoint_steps(path) == [300, 290, 280]  # training.keep_checkpoints
    summary = json.loads((path / "COMPLETE.json").read_text())
    assert (summary["ranks"], summary["steps"], summary["samples"], summary["skipped_steps"]) == (2, 300, 3600, 0)
    assert len(summary["peak_rss_bytes"]) == 2 and summary["samples_per_s"]["value"] > 0
    held = metrics(path)
    assert held["training/step"].tolist() == list(range(1, STEPS + 1))
    assert held["training/samples"].tolist() == list(range(12, 12 * STEPS + 1, 12))
    assert np.isfinite(held["training/loss"]).all()
    assert held["hardware/rank_rss_bytes"].shape == (STEPS, 2) and (held["hardware/rank_rss_bytes"] > 50e6).all()
    for rank in range(2):
        assert events(path, rank), f"no events of rank {rank}"
    assert sum(line.startswith("summary") for line in job.out.splitlines()) == 1, job.said()
    assert "Traceback" not in job.err, job.said()
    table = job.out[: job.out.index("summary")]
    wanted = ("2 ranks on 1 node", "mpi (ours, over mpi4py", "float64", "global batch", "Markov chain", str(path)[:20])
    for said in wanted:
        assert said in table, f"{said!r} is missing\n{job.said()}"


def test_a_run_learns_the_markov_source_to_within_5_percent_of_its_entropy_rate(undisturbed, tmp_path):
    words = overrides(training__max_steps=500, training__batch_size=24, training__warmup_steps=20)
    job = run(mpirun(2, *train(tmp_path / "run", *words, "hardware.dtype=float32")), tmp_path).succeeded()
    summary = json.loads((tmp_path / "run/COMPLETE.json").read_text())
    loss, reference = summary["held_out"]["loss"], summary["reference"]
    assert loss < 0.8 * reference["unigram_entropy"], job.said()
    assert 0.98 * reference["entropy_rate"] < loss < 1.05 * reference["entropy_rate"], job.said()
    assert summary["held_out"]["perplexity"] == pytest.approx(math.exp(loss))


def test_a_text_corpus_is_trained_from_and_sampled(tmp_path):
    books = tmp_path / "books"
    books.mkdir()
    for number in range(20):
        (books / f"{number}.txt").write_text(f"def chapter_{number}():\n" + "    return 'the quick brown fox'\n" * 60)
    words = overrides(
        data__source="text", data__num_samples=None, data__paths=books, data__tokenizer="bytes", model__vocab_size=256
    )
    job = run(mpirun(2, *train(tmp_path / "run", *words)), tmp_path).succeeded()
    assert "the model goes on from 'def '" in job.out
    assert json.loads((tmp_path / "run/COMPLETE.json").read_text())["reference"]["unigram_entropy"] > 2
    # and, once trained: a corpus that has changed since is not gone on with
    shutil.rmtree(tmp_path / "run/data")
    (books / "3.txt").write_text("something else entirely\n" * 500)
    refused = run(mpirun(2, *train(tmp_path / "run", *words, "training.max_steps=60")), tmp_path)
    refused_with(refused, "was trained on other data")


def test_a_run_stopped_by_signals_to_env_run_goes_on_to_the_same_end(undisturbed, tmp_path):
    path, _ = undisturbed
    words = train(tmp_path / "run", *overrides(training__max_steps=STEPS))
    command = [str(launch.REPO / "env/run"), "mpirun", "-np", "2", "python"]
    reached = 0
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        # slowed down, so that the signal arrives in the middle
        job = Job([*command, *planted(*_split(words))], tmp_path, PLANTED="sleep:0.02")
        job.wait_for(lambda seen=reached: any(s > seen for s in checkpoint_steps(tmp_path / "run")))
        job.process.send_signal(name)
        job.wait().succeeded()
        assert "stopped by SIGUSR1 after step" in job.out, job.said()
        assert f"--run-dir {tmp_path / 'run'}" in job.out.replace("\n", ""), job.said()
        assert not (tmp_path / "run/COMPLETE.json").exists()
        stopped = int(job.out.split("after step ")[1].split()[0])
        found, damaged = newest_good(tmp_path / "run/checkpoints")
        assert found.step == stopped > reached and not damaged
        reached = stopped
    assert reached < STEPS
    run([*command, *words], tmp_path).succeeded()
    assert (tmp_path / "run/COMPLETE.json").exists()
    assert checkpoint_bytes(tmp_path / "run", STEPS) == checkpoint_bytes(path, STEPS)
    held, expected = metrics(tmp_path / "run"), metrics(path)
    assert held["training/step"].tolist() == list(range(1, STEPS + 1))
    assert held["training/loss"].tolist() == expected["training/loss"].tolist()


def _split(words):
    """`train(...)`'s words after the module, as `planted` wants them."""
    return words[3], *words[4:]


def test_a_run_resized_twice_trains_every_sample_once_with_the_losses_of_the_undisturbed_one(undisturbed, tmp_path):
    path, _ = undisturbed
    words = overrides(training__max_steps=STEPS)
    for ranks, fault in ((2, "stop:1@101"), (3, "stop:2@202"), (1, "stop:0@1000")):
        job = run(mpirun(ranks, *planted(tmp_path / "run", *words)), tmp_path, PLANTED=fault).succeeded()
        assert ("stopped by SIGUSR1" in job.out) == (ranks > 1), job.said()
    held, expected = metrics(tmp_path / "run"), metrics(path)
    assert held["training/step"].tolist() == list(range(1, STEPS + 1))
    assert held["training/samples"].tolist() == expected["training/samples"].tolist()
    assert np.abs(held["training/loss"] - expected["training/loss"]).max() < 1e-9
    ours, theirs = (load_checkpoint(p / f"checkpoints/step-{STEPS:08d}") for p in (tmp_path / "run", path))
    for name, tensor in ours.tensors["model"].items():
        assert float((tensor - theirs.tensors["model"][name]).abs().max()) < 1e-9
    assert json.loads((tmp_path / "run/COMPLETE.json").read_text())["samples"] == 12 * STEPS


def test_a_complete_run_started_again_shows_its_summary_and_trains_nothing(undisturbed, tmp_path):
    path, _ = undisturbed
    shutil.copytree(path, tmp_path / "run")
    before = checkpoint_bytes(tmp_path / "run", STEPS)
    job = run(mpirun(2, *train(tmp_path / "run", *overrides(training__max_steps=STEPS))), tmp_path).succeeded()
    assert sum(line.startswith("summary") for line in job.out.splitlines()) == 1, job.said()
    assert checkpoint_bytes(tmp_path / "run", STEPS) == before
    assert metrics(tmp_path / "run")["training/step"].tolist() == list(range(1, STEPS + 1))
    again = json.loads((tmp_path / "run/COMPLETE.json").read_text())
    first = json.loads((path / "COMPLETE.json").read_text())
    assert (again["steps"], again["samples"]) == (first["steps"], first["samples"])
    assert again["held_out"] == pytest.approx(first["held_out"], rel=1e-9)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(undisturbed, tmp_path):
    path, _ = undisturbed
    shutil.copytree(path, tmp_path / "run")
    expected = checkpoint_bytes(tmp_path / "run", STEPS)
    damaged = tmp_path / "run/checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    job = run(mpirun(2, *train(tmp_path / "run", *overrides(training__max_steps=STEPS))), tmp_path).succeeded()
    assert job.err.count(f"step-{STEPS:08d}: model.safetensors") == 1, job.said()
    assert checkpoint_bytes(tmp_path / "run", STEPS) == expected
    assert metrics(tmp_path / "run")["training/step"].tolist() == list(range(1, STEPS + 1))
    assert (tmp_path / "run/COMPLETE.json").exists()


# -- what a person did wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "words", "message"),
    [
        (2, ["training.batchsize=3"], "training.batchsize"),
        (2, ["training.batch_size=many"], "training.batch_size"),
        (2, ["--config", "no_such_profile"], "no_such_profile"),
        (2, ["distributed.min_processes=8"], "at least 8 processes"),
        (2, ["training.global_batch=1"], "training.global_batch=1"),
        (2, ["hardware.zero_stage=3"], "hardware.zero_stage=3"),
        (2, ["distributed.backend=nccl"], "distributed.backend=nccl is not available"),
        (2, ["distributed.interface=nosuch0"], "nosuch0"),
        (2, ["distributed.master_addr=203.0.113.7"], "203.0.113.7"),
        (2, ["--resume", "/no/such/run"], "/no/such/run"),
        (2, ["--run-dir", "/proc/version/run"], "/proc/version/run"),
        (2, ["data.source=text", "data.paths=/no/such/text", "model.vocab_size=300"], "/no/such/text"),
        (3, ["--config", "production_4process"], "at least 4 processes"),
        (4, ["--config", "production_4process"], "does not fit"),
        (1, ["training.batchsize=3"], "training.batchsize"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings_are_refused_once_without_a_traceback(ranks, words, message, tmp_path):
    common = [] if "--config" in words else overrides(**{w.split("=")[0].replace(".", "__"): None for w in words})
    folder = None if "--run-dir" in words else tmp_path / "run"
    job = run(mpirun(ranks, *train(folder, *common, *words)), tmp_path)
    refused_with(job, message)
    assert not (tmp_path / "run/checkpoints").exists() or not checkpoint_steps(tmp_path / "run")


def test_a_run_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    refused_with(run(mpirun(2, *train(tmp_path / "run", *overrides())), tmp_path), "can't be written")


def test_a_run_directory_that_may_not_be_written_is_refused(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(0o555)
    command = mpirun(2, *train(path, *overrides()))
    if os.geteuid() == 0:  # whom rights do not hold back, a file system mounted read-only does
        mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, str(path), *command]
        if subprocess.run([*command[:6], "true"], capture_output=True).returncode:
            pytest.skip("root, and no mount namespaces here")
    refused_with(run(command, tmp_path), "can't be written")


def test_a_run_directory_in_use_and_a_checkpoint_of_another_model_are_refused(undisturbed, tmp_path):
    path, _ = undisturbed
    shutil.copytree(path, tmp_path / "run")
    words = overrides(training__max_steps=STEPS + 5000)
    first = Job(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, PLANTED="sleep:0.02")
    try:
        first.wait_for(lambda: max(checkpoint_steps(tmp_path / "run")) > STEPS)
        second = run(mpirun(2, *train(tmp_path / "run", *words)), tmp_path)
        refused_with(second, "is in use by process")
        assert first.process.poll() is None
    finally:
        first.kill()
    other = run(mpirun(2, *train(tmp_path / "run", *words, "model.num_layers=2")), tmp_path)
    refused_with(other, "model.num_layers=2 (checkpoint: 1)")
    never = run(mpirun(2, *train(tmp_path / "run", *words, "--resume", "never")), tmp_path)
    refused_with(never, "holds other checkpoints")


# -- what breaks ------------------------------------------------------------------------------------------------------


def test_an_exception_on_one_rank_ends_the_job_at_once_with_a_line_that_names_it(tmp_path):
    words = overrides(training__max_steps=100_000)
    for fault in ("raise:1@5", "early:1"):
        job = run(mpirun(2, *planted(tmp_path / fault[:5], *words)), tmp_path, 60, PLANTED=fault)
        assert job.code not in (0, 2), job.said()
        assert job.err.count("ArithmeticError: planted") == 2, job.said()  # the traceback's line, and ours
        ours = [line for line in job.err.splitlines() if line.startswith("ryzen_mpi: rank")]
        assert len(ours) == 1 and ours[0].startswith("ryzen_mpi: rank 1 on "), job.said()
        assert not (tmp_path / fault[:5] / "COMPLETE.json").exists()
    (failure,) = of_action(tmp_path / "raise", 1, "failure")
    assert failure["message"] == "ArithmeticError: planted: the sum does not add up"
    assert (failure["ryzen"]["end"], failure["ryzen"]["phase"], failure["ryzen"]["step"]) == ("failed", "train", 4)


def test_the_checkpoints_a_rollback_leaves_behind_are_set_aside(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    words = overrides(training__max_steps=STEPS + 3, training__keep_checkpoints=2)
    older = tmp_path / f"run/checkpoints/step-{STEPS - 20:08d}"
    run(mpirun(2, *train(tmp_path / "run", *words, "--resume", str(older))), tmp_path).succeeded()
    assert checkpoint_steps(tmp_path / "run") == [STEPS + 3, STEPS]
    names = sorted(path.name for path in (tmp_path / "run/checkpoints/set-aside").iterdir())
    assert [name.partition(".")[0] for name in names] == [f"step-{step:08d}" for step in (STEPS - 10, STEPS)]


def test_a_signal_at_any_moment_of_the_start_ends_the_job(tmp_path):
    words = overrides(training__max_steps=100_000, data__num_samples=10_000_000)
    env_run = str(launch.REPO / "env/run")
    for after_s in (0.6, 1.5, 2.5, 3.5):
        path = tmp_path / str(after_s)
        job = Job([env_run, "mpirun", "-np", "2", "python", *train(path, *words)], tmp_path)
        time.sleep(after_s)
        job.process.send_signal(signal.SIGINT)
        job.wait(60)
        assert not (path / "COMPLETE.json").exists()
        if job.code == 0:  # training had begun
            assert "stopped by SIGUSR1" in job.out and checkpoint_steps(path), job.said()


def test_a_rank_killed_alone_ends_the_job(tmp_path):
    words = overrides(training__max_steps=100_000)
    job = run(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, 60, PLANTED="kill:1@25")
    assert job.code != 0 and not (tmp_path / "run/COMPLETE.json").exists(), job.said()
    found, damaged = newest_good(tmp_path / "run/checkpoints")
    assert found is not None and found.step in (10, 20) and not damaged
    for failure in of_action(tmp_path / "run", 0, "failure"):  # none where mpirun was quicker
        assert failure["ryzen"]["end"] == "lost" and "rank 1" in failure["message"]


# -- other ways to start ----------------------------------------------------------------------------------------------


def test_it_starts_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = run([*command, *train(tmp_path / "run", *overrides())], tmp_path).succeeded()
    assert "started by torchrun" in job.out, job.said()
    assert json.loads((tmp_path / "run/COMPLETE.json").read_text())["ranks"] == 2


def test_a_wrong_setting_under_torchrun_is_told_once(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = run([*command, *train(tmp_path / "run", "training.batchsize=3")], tmp_path)
    assert job.code != 0 and job.err.count("error: ") == 1 and "training.batchsize" in job.err, job.said()


def test_it_starts_alone(tmp_path):
    job = run(mpirun(1, *train(None, *overrides())), tmp_path).succeeded()
    (path,) = (tmp_path / "runs").iterdir()  # the run directory of its own choice
    assert path.name.endswith("-default") and f"runs/{path.name}" in job.out
    assert json.loads((path / "COMPLETE.json").read_text())["ranks"] == 1


def test_more_ranks_than_cores_are_told_that_they_share(tmp_path):
    cores = len(os.sched_getaffinity(0))
    if cores > 6:
        pytest.skip(f"{cores} cores: as many ranks and two are too many to start here")
    job = run(mpirun(cores + 2, *train(tmp_path / "run", *overrides(training__max_steps=3))), tmp_path).succeeded()
    assert f"{cores + 2} ranks share {cores} cores" in job.err, job.said()
