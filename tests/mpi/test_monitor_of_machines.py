"""What the monitor does about machines: memory squeezed by a real cgroup, processors that throttle; and what stops no
training: a disk that is full, a port that is taken."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch import Job, metrics, mpirun, of_action, overrides, planted, run, train
from sensor_tree import SensorTree

GROUPS = Path("/sys/fs/cgroup")
WORDS = overrides(monitor__sample_s=0.3, training__max_steps=400, training__save_interval=100)


def acts(folder, rule):
    return [e["ryzen"] for e in of_action(folder, 0, "act") if e["ryzen"]["rule"] == rule]


@contextmanager
def cgroup():
    """A memory cgroup of our own, version 1 or 2: the folder to write limits and processes to."""
    parents = [GROUPS / "memory", GROUPS]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    for parent in parents:
        own = next((line.split(":")[2] for line in lines if "memory" in line.split(":")[1].split(",")), "")
        for base in (parent / own.lstrip("/"), parent):
            folder = base / f"ryzen_mpi_test_{os.getpid()}"
            try:
                folder.mkdir()
            except OSError:
                continue
            if (folder / "memory.limit_in_bytes").exists() or (folder / "memory.max").exists():
                try:
                    yield folder
                finally:
                    for _ in range(50):
                        try:
                            folder.rmdir()
                            break
                        except OSError:
                            time.sleep(0.1)
                return
            folder.rmdir()
    pytest.skip("no memory cgroup can be made here: needs root and a writable /sys/fs/cgroup")


BALLAST = """
import sys, time
held = []
for line in sys.stdin:  # how many MiB more
    held += [b"%d" % number * (1 << 20) for number in [1] * int(line)]
    print(len(held), flush=True)
"""


class Ballast:
    """A process in a cgroup that takes as much memory as it is told to."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BALLAST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        (folder / "cgroup.procs").write_text(str(self.process.pid))

    def take(self, mib: int) -> None:
        self.process.stdin.write(f"{mib}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), "the ballast was killed"

    def drop(self) -> None:
        self.process.kill()
        self.process.communicate()


def used(folder: Path) -> int:
    name = "memory.usage_in_bytes" if (folder / "memory.usage_in_bytes").exists() else "memory.current"
    return int((folder / name).read_text())


def test_memory_that_runs_short_is_told_then_micro_batches_are_halved_then_it_is_saved(tmp_path):
    folder, limit = tmp_path / "run", 1024 << 20
    words = [*WORDS, "training.max_steps=100000", "training.batch_size=8", "training.save_interval=100000"]
    with cgroup() as group:
        name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
        (group / name).write_text(str(limit))
        ballast = Ballast(group)
        job = Job(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *mpirun(1, *train(folder, *words))],
            tmp_path,
        )

        def squeeze(left: float, told):
            job.wait_for(lambda: (folder / "metrics.h5").exists() and len(of_action(folder, 0, "start")))
            ballast.take(max(0, int((1 - left) * limit - used(group)) >> 20))
            job.wait_for(told)

        kinds = lambda: [act["kind"] for act in acts(folder, "memory")]  # noqa: E731
        try:
            squeeze(0.085, lambda: "warn" in kinds())
            squeeze(0.04, lambda: "halve_micro_batch" in kinds())
            squeeze(0.015, lambda: job.process.poll() is not None or "save_and_stop" in kinds())
            job.wait()
        finally:
            ballast.drop()
    assert job.code == 0, job.said()
    assert kinds()[0] == "warn" and kinds()[-1] == "save_and_stop" and "halve_micro_batch" in kinds()
    assert {act["node"] for act in acts(folder, "memory")} == {socket.gethostname()}
    steps = metrics(folder)
    assert steps["system/micro_batch"][0] == 8 and steps["system/micro_batch"][-1] <= 4
    assert (steps["training/samples"][1:] - steps["training/samples"][:-1] == 8).all()  # the same global batch
    assert list((folder / "checkpoints").glob("step-*")), "nothing was saved"


def test_processors_that_throttle_get_fewer_threads_and_then_all_again(tmp_path):
    folder, sensors = tmp_path / "run", SensorTree(tmp_path / "sys")
    words = [*WORDS, "training.max_steps=100000", "training.save_interval=100000", "hardware.num_threads=2"]
    job = Job(mpirun(1, *train(folder, *words, f"monitor.sensors={sensors.root}")), tmp_path)
    job.wait_for(lambda: (folder / "metrics.h5").exists())
    kinds = lambda: [act["kind"] for act in acts(folder, "heat")]  # noqa: E731
    with sensors.throttling():
        job.wait_for(lambda: "fewer_threads" in kinds())
    job.wait_for(lambda: "all_threads" in kinds())
    job.process.send_signal(10)  # SIGUSR1: save and leave
    job.wait()
    assert job.code == 0, job.said()
    first, *_, last = acts(folder, "heat")
    assert (first["kind"], first["figures"]["threads"]) == ("fewer_threads", 1)
    assert (last["kind"], last["figures"]["threads"]) == ("all_threads", 2)
    temperatures = metrics(folder)["hardware/rank_temperature_c"][:, 0]
    assert temperatures.max() > 90 > temperatures[-1]


def test_a_taken_port_is_told_once_and_training_goes_on(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [*WORDS, "training.max_steps=10", f"monitor.prometheus_port={port}"]
        done = run(mpirun(1, *train(tmp_path / "run", *words)), tmp_path).succeeded()
    assert done.err.count("warning:") == 1 and str(port) in done.err and "is not served" in done.err, done.said()
    assert json.loads((tmp_path / "run/COMPLETE.json").read_text())["steps"] == 10
    assert "ryzen_mpi_loss" in (tmp_path / "run/metrics.prom").read_text()


def test_a_disk_that_is_full_stops_no_training(tmp_path):
    """Of everything that is recorded: the file system of the run directory takes nothing for a while."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here: needs root")
    try:
        folder, words = disk / "run", [*WORDS, "training.max_steps=300", "training.save_interval=100"]
        job = Job(mpirun(1, *planted(folder, *words)), tmp_path, PLANTED="sleep:0.02")
        log = folder / "events/rank-0000.jsonl"
        job.wait_for(lambda: log.exists() and '"action":"step"' in log.read_text())
        ballast = threading.Thread(target=fill, args=(disk / "ballast",))
        ballast.start()
        ballast.join()
        time.sleep(2)
        (disk / "ballast").unlink(missing_ok=True)
        job.wait()
        assert "Traceback" not in job.err, job.said()
        assert job.err.count("warning:") >= 1 and "step 300/300" in job.out, job.said()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(path: Path) -> None:
    """Everything that is left."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        return


def test_a_run_is_spoilt_by_no_fault_that_is_only_to_be_told(tmp_path):
    """monitor.rules: a rule that may only warn changes nothing."""
    words = [*WORDS, "training.max_steps=60", "monitor.rules.spike=warn"]
    run(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, PLANTED="large:1@40").succeeded()
    [act] = acts(tmp_path / "run", "spike")
    assert (act["kind"], act["figures"]["would"]) == ("warn", "skip")
    assert metrics(tmp_path / "run")["training/skipped"].sum() == 0
