"""Nobody hangs: a killed, stopped or raising rank in every collective; calls that do not match; clean exits."""

import json
import os
import signal
import time

import launch
import psutil
import pytest

PROGRAM, LEAVING = str(launch.HERE / "faults.py"), str(launch.HERE / "leaving.py")
VARIABLES = {"OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
IN_TIME_S = 10.0
"""The groups' timeout is 1 s and asking who is missing takes 2: what takes longer hangs."""
WAYS_TO_LEAVE = ["without_a_word", "given_back", "work_in_flight", "two_groups", "given_back_and_made_again"]


def start(ranks, tmp_path, *words, options=()):
    mpirun, *rest = launch.mpirun(ranks, *words)
    return launch.Job([mpirun, *options, *rest], tmp_path, **VARIABLES)


def told(tmp_path, name, rank):
    return json.loads((tmp_path / f"{name}-{rank}.json").read_text())


def assert_all_named(found, rank, victim, reasons):
    for name, way, kind, text, seconds in found:
        if name == "gather" and rank == 0:  # it gave what it had: only the root waits for the others
            continue
        context = (name, way, kind, text, seconds)
        assert kind == "CollectiveError", context
        assert text.startswith(name.split(",")[0]) and f"failed on rank {rank}" in text, context
        assert f"rank {victim}" in text and any(reason in text for reason in reasons), context
        assert seconds < IN_TIME_S, context


def test_every_operation_names_a_killed_rank_at_once_to_all_survivors(tmp_path):
    job = start(3, tmp_path, PROGRAM, "killed", str(tmp_path), "1", options=["--enable-recovery"]).wait()
    for rank in (0, 2):
        found = told(tmp_path, "met", rank)
        assert len(found) == 16, job.said()
        assert_all_named(found, rank, 1, ["has ended"])


def test_every_operation_names_a_stopped_rank_after_the_timeout_even_the_host_of_the_store(tmp_path):
    job = start(3, tmp_path, PROGRAM, "stopped", str(tmp_path), "0", options=["--enable-recovery"])
    job.wait_for(lambda: all((tmp_path / f"met-{rank}.json").exists() for rank in (1, 2)))
    pids = [told(tmp_path, "pid", rank) for rank in range(3)]
    job.wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids[1:]), 30)  # a store that is silent holds nobody
    os.kill(pids[0], signal.SIGKILL)
    job.wait(30)
    for rank in (1, 2):
        found = told(tmp_path, "met", rank)
        assert len(found) == 15, job.said()
        # the one that finished first may have gone when the other comes to its last messages
        named = [one for one in found if one[0] not in ("send", "recv")]
        assert_all_named(named, rank, 0, ["did not come"])
        assert all(one[2] == "CollectiveError" for one in found)


@pytest.mark.parametrize("kind", ["killed", "raising"])
def test_a_job_that_loses_a_rank_ends_with_an_error_and_leaves_nobody(tmp_path, kind):
    job = start(3, tmp_path, PROGRAM, kind, str(tmp_path), "2").wait(90)
    assert job.code != 0, job.said()
    pids = [told(tmp_path, "pid", rank) for rank in range(3)]
    end = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids), job.said()
    if kind == "raising":
        assert "planted: this rank fails alone" in job.err


def test_ranks_that_call_different_things_are_told_so(tmp_path):
    job = start(3, tmp_path, PROGRAM, "mismatch", str(tmp_path)).wait(90)
    for rank in range(3):
        for name, _, kind, text, seconds in told(tmp_path, "met", rank):
            assert kind == "CollectiveError" and seconds < IN_TIME_S, (name, kind, text, job.said())
            assert "another operation, or with another shape, dtype or root" in text, (name, text)


def test_a_barrier_keeps_its_own_timeout(tmp_path):
    start(2, tmp_path, PROGRAM, "late barrier", str(tmp_path)).wait(90)
    _, _, kind, text, seconds = told(tmp_path, "met", 0)[0]
    assert kind == "CollectiveError" and "rank 1" in text and "0.5 s" in text and seconds < 2.9, text


def test_signal_handlers_run_while_a_rank_waits_and_the_collective_goes_on(tmp_path):
    start(2, tmp_path, PROGRAM, "signals", str(tmp_path)).wait(90).succeeded()
    for way, total, seconds in told(tmp_path, "met", 0):
        assert total == 2 and seconds is not None and seconds > 0.2, (way, total, seconds)


@pytest.mark.parametrize("name", [*WAYS_TO_LEAVE, "nothing_done"])
def test_scripts_end_without_an_error_or_a_word(tmp_path, name):
    for _ in range(2 if name in ("without_a_word", "work_in_flight") else 1):
        job = start(4, tmp_path, LEAVING, name).wait(90).succeeded()
        assert (job.out, job.err) == ("", ""), job.said()


@pytest.mark.parametrize(("name", "code"), [("with_a_code", 7), ("with_a_code_after_an_error", 5)])
def test_a_script_s_exit_code_survives(tmp_path, name, code):
    job = start(2, tmp_path, LEAVING, name).wait(90)
    assert job.code == code, job.said()
