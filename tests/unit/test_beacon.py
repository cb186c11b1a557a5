"""What a rank lets its guard see."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import timeit

import pytest

from ryzen_mpi.beacon import ENDS, PHASES, SIZE, VARIABLE, Beacon, epoch, open_beacon, read_beacon


@pytest.fixture
def memory():
    return mmap.mmap(-1, SIZE)


def test_a_beacon_nobody_has_touched_says_that_the_rank_starts(memory):
    assert read_beacon(memory).phase == "start" and read_beacon(memory).beats == 0


def test_a_beat_moves_the_counter_and_changes_only_what_is_new(memory):
    beacon = Beacon(memory)
    beacon.beat("train", step=7, saved=5, trained_s=1.5)
    beacon.beat(step=8)
    beacon.beat()
    reading = read_beacon(memory)
    assert reading == beacon.reading()
    assert (reading.beats, reading.step, reading.saved, reading.trained_s) == (3, 8, 5, 1.5)
    assert (reading.phase, reading.text) == ("train", "")


@pytest.mark.parametrize("name", PHASES)
def test_every_phase_can_be_said(memory, name):
    Beacon(memory).beat(name)
    assert read_beacon(memory).phase == name


@pytest.mark.parametrize("end", ENDS)
def test_the_first_end_counts_and_is_not_taken_back(memory, end):
    beacon = Beacon(memory)
    beacon.beat("train", step=3)
    beacon.tell(end, "Größe 1")
    beacon.tell("failed", "another")
    beacon.beat("leave", step=4)
    reading = read_beacon(memory)
    assert (reading.phase, reading.text, reading.step) == (end, "Größe 1", 3)


def test_a_long_text_is_cut_and_does_no_harm(memory):
    Beacon(memory).tell("failed", "é" * SIZE)
    said = read_beacon(memory).text
    assert said.startswith("ééé") and SIZE / 2 - 50 < len(said) < SIZE / 2


def test_without_a_guard_a_beacon_is_the_ranks_own():
    for environment in ({}, {VARIABLE: ""}, {VARIABLE: "x"}, {VARIABLE: "999"}):
        open_beacon(environment).beat("data")


def test_a_descriptor_that_is_no_shared_memory_is_not_used(tmp_path):
    with (tmp_path / "empty").open("w+b") as file:
        open_beacon({VARIABLE: str(file.fileno())}).beat("data")
    assert (tmp_path / "empty").stat().st_size == 0


def test_a_guard_reads_what_its_child_said_after_the_child_was_killed():
    descriptor = os.memfd_create("beacon")
    os.ftruncate(descriptor, SIZE)
    source = """if True:
        import os, signal
        from ryzen_mpi.beacon import open_beacon
        beacon = open_beacon()
        beacon.beat("train", step=12)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {VARIABLE: str(descriptor), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", source], env=environment, pass_fds=[descriptor], check=False)
    with mmap.mmap(descriptor, SIZE) as memory:
        assert (read_beacon(memory).phase, read_beacon(memory).step) == ("train", 12)
    os.close(descriptor)


def test_the_epoch_is_a_number_or_none():
    assert epoch({"RYZEN_MPI_EPOCH": "3"}) == 3
    assert epoch({}) is epoch({"RYZEN_MPI_EPOCH": ""}) is epoch({"RYZEN_MPI_EPOCH": "x"}) is None


def test_a_beat_costs_a_step_nothing(memory):
    beacon = Beacon(memory)
    seconds = min(timeit.repeat(lambda: beacon.beat("train", step=1, saved=0, trained_s=1.0), number=1000, repeat=20))
    assert seconds / 1000 < 100e-6  # about 1 us where nothing else runs
