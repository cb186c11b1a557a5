"""Disks that are full, cannot be written or give back other bytes: it is told, and never called complete."""

from __future__ import annotations

import os
import signal

import pytest

from ryzen_mpi.training.checkpoint_reading import find_checkpoints
from tests.lab.faults import full_disk, read_only
from tests.lab.jobs import LabJob, submit

SIZE = 8 << 20
LONG_STEPS = ("training.global_batch=480", "training.save_interval=20")


@pytest.fixture
def folder(lab, request):
    """A run directory that is there before the job."""
    run = lab.shared / request.node.name.removeprefix("test_")[:20]
    (run / "checkpoints").mkdir(parents=True)
    return run


@pytest.mark.long
def test_a_disk_that_is_full_for_a_while_ends_nothing(lab, folder, table):
    with full_disk(lab, folder, SIZE, fill=False) as disk:
        job = submit(lab, folder.name, 1, 1, *LONG_STEPS, "training.max_steps=250")
        job.wait_for(lambda: any(disk.outside.glob("checkpoints/step-*")))
        disk.fill()
        job.wait_for(lambda: "doesnotfit" in said(job))
        disk.free()
        job.wait("COMPLETED")
    told(job, f"checkpoint {folder}/checkpoints/step-", "needed, 0 B free (No space left on device)")
    # Not `recovered`: the metrics were on the full disk as well, and are given up for the attempt; that too is told.
    told(job, "metrics: Hdf5Sink failed and is dropped; training goes on")
    assert job.complete()["steps"] == job.step == 250 and len(job.records()) == 1, job.said()
    lab.check_clean()
    table("disk full for a while", job, attempts=1)


def test_a_disk_that_stays_full_ends_the_run_as_failed(lab, folder, table):
    with full_disk(lab, folder, SIZE, fill=False) as disk:
        job = submit(lab, folder.name, 1, 1, *LONG_STEPS, "training.max_steps=100", options="--retries 1")
        job.wait_for(lambda: any(disk.outside.glob("checkpoints/step-*")))
        disk.fill()
        ended = job.wait("FAILED")
    failed(job, "No space left", ended.fields["ExitCode"])
    table("disk full for good", job, outcome="failed")


@pytest.mark.long
@pytest.mark.long
def test_a_checkpoint_folder_that_is_read_only_ends_the_run_as_failed(lab, folder, table):
    job = submit(lab, folder.name, 1, 1, *LONG_STEPS, "training.max_steps=100", options="--retries 1")
    job.wait_for(lambda: job.step)
    with read_only(lab, folder / "checkpoints"):
        ended = job.wait("FAILED")
    failed(job, "Read-only file system", ended.fields["ExitCode"])
    assert (folder / "FAILED.json").exists(), job.said()
    again = submit(lab, folder.name, 1, 1, *LONG_STEPS, "training.max_steps=100")
    again.wait("COMPLETED")
    assert again.recovered()[-1]["resumed"] > 0
    assert not (folder / "FAILED.json").exists()
    table("checkpoint folder read-only", job, outcome="failed; once it can be written again it goes on")


@pytest.mark.long
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(lab, table):
    whole = submit(lab, "whole", 1, 1, *LONG_STEPS, "training.max_steps=100")
    whole.wait("COMPLETED")
    part = submit(lab, "part", 1, 1, *LONG_STEPS, "training.max_steps=100")
    part.wait_for(lambda: part.step >= 40)
    os.kill(part.supervisor()[1], signal.SIGTERM)
    assert part.wait("FAILED").fields["ExitCode"] == "75:0", part.said()
    newest, before = find_checkpoints(part.run / "checkpoints")[:2]
    damaged = newest / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = submit(lab, "part", 1, 1, *LONG_STEPS, "training.max_steps=100")
    again.wait("COMPLETED")
    told(again, f"checkpoint {damaged.parent}: model.safetensors: holds other bytes than were written")
    assert again.recovered()[-1]["resumed"] == int(before.name[5:])
    assert again.final() == whole.final()
    table("newest checkpoint damaged", again, same=True)


def said(job: LabJob) -> str:
    """What the job said without any space: its console may have wrapped it anywhere."""
    return "".join(job.said().split())


def told(job: LabJob, *words: str) -> None:
    """Asserts that the job said all `words`."""
    assert all("".join(text.split()) in said(job) for text in words), job.said()


def failed(job: LabJob, why: str, code: str) -> None:
    """Asserts that it gave up, telling `why` and where, and is nowhere called complete."""
    assert code == "1:0", job.said()
    told(job, f"checkpoint {job.run}/checkpoints/step-", why, "giving up", f"{job.run}: failed")
    assert job.complete() is None
    job.lab.check_clean()
