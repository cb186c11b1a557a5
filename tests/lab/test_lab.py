"""The lab itself: Slurm works in it, each fault takes and is gone afterwards, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import faults, scheduling
from tests.lab.cluster import Cluster, inner_pid
from tests.lab.hosts import LabError, state_of
from tests.lab.leftovers import BASE
from tests.lab.probes import bits_per_s, datagrams_lost, hears, write_error
from tests.lab.slurm import daemon, expand, node_states, wait_until

# Slurm's PMIx offers munge first, which the wheel's Open MPI does not have and complains of.
QUIET = {"PMIX_MCA_psec": "native", "OMPI_MCA_osc": "^ucx"}
SPIN = [sys.executable, "-IS", "-c", "while True: pass"]


def cpu_s(pid: int) -> float:
    """Processor time the process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the cluster ------------------------------------------------------------------------------------------------------


def test_a_job_runs_on_all_four_nodes(lab):
    job = lab.sbatch("#!/bin/bash\nsrun hostname", options=["--nodes=4", "--ntasks-per-node=1"])
    assert lab.wait_job(job).state == "COMPLETED"
    assert sorted((lab.shared / f"slurm-{job}.out").read_text().split()) == lab.nodes


def test_ranks_started_by_srun_find_each_other_through_pmix(lab):
    program = "from mpi4py import MPI; print(MPI.COMM_WORLD.size, MPI.Get_processor_name())"
    script = f"#!/bin/bash\nsrun --mpi=pmix {sys.executable} -c '{program}'"
    job = lab.sbatch(script, options=["--nodes=2", "--ntasks-per-node=1"], env=QUIET)
    said = lab.wait_job(job).state, (lab.shared / f"slurm-{job}.out").read_text()
    assert said[0] == "COMPLETED" and sorted(said[1].splitlines()) == ["2 node1", "2 node2"], said


def test_an_urgent_job_preempts_one_of_the_main_partition(lab):
    options = ["--nodes=4", "--exclusive"]
    patient = lab.sbatch("#!/bin/bash\nexec sleep 600", options=options)
    lab.wait_job(patient, "RUNNING", 30)
    urgent = lab.sbatch("#!/bin/bash\nexec sleep 600", options=[*options, "--partition=urgent"])
    lab.wait_job(urgent, "RUNNING", 30)
    job = lab.wait_job(patient, "PENDING", 30)
    assert job.restarts == 1


def test_ranks_of_all_hosts_share_the_cores_as_threads_and_not_as_sessions(lab):
    groups = scheduling.AUTOGROUP
    if not groups.exists() or not os.access(groups, os.W_OK):
        pytest.skip(f"{groups} is not there, or not ours to change")
    assert groups.read_text().strip() == "0"


def test_the_setting_of_the_kernel_is_put_back_by_the_lab_that_changed_it(tmp_path):
    setting, first, second = tmp_path / "setting", tmp_path / "first", tmp_path / "second"
    setting.write_text("1\n")
    for folder in (first, second):
        folder.mkdir()
        scheduling.ungroup(folder, setting)
        assert setting.read_text() == "0"
    scheduling.regroup(second, setting)
    assert setting.read_text() == "0"  # the other one is still up
    scheduling.regroup(first, setting)
    assert setting.read_text() == "1"


def test_a_kernel_without_the_setting_is_left_alone(tmp_path):
    scheduling.ungroup(tmp_path, tmp_path / "none/setting")
    scheduling.regroup(tmp_path, tmp_path / "none/setting")
    assert not list(tmp_path.iterdir())


def test_hosts_share_one_folder_and_nothing_else(lab):
    (lab.shared / "all.txt").write_text("seen")
    for path in ("/tmp/own", "/dev/shm/own", "/run/own"):
        assert lab.run("node1", ["touch", path]).returncode == 0
        assert lab.run("node2", ["test", "-e", path]).returncode == 1 and not Path(path).exists()
    for host in lab.hosts:
        assert lab.run(host, ["cat", "all.txt"]).stdout == "seen"
        assert lab.run(host, ["hostname"]).stdout.strip() == host


def test_a_program_that_takes_too_long_is_killed_on_its_host(lab):
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("node1", SPIN, timeout_s=0.3)
    assert lab.find("node1", *SPIN) == []


def test_what_a_job_leaves_behind_is_named_and_can_be_killed(lab):
    assert lab.run("node2", ["bash", "-c", "setsid sleep 1234 >/dev/null 2>&1 &"]).returncode == 0
    with pytest.raises(AssertionError, match="node2: .* sleep 1234"):
        lab.check_clean(grace_s=0.1)
    lab.kill_stray_jobs()
    lab.check_clean()


def test_a_job_that_ends_otherwise_is_told(lab):
    job = lab.sbatch("#!/bin/bash\nexit 3")
    with pytest.raises(LabError, match=f"job {job} is FAILED .NonZeroExitCode. on"):
        lab.wait_job(job, "COMPLETED", 60)


def test_a_lab_whose_process_is_killed_leaves_only_a_folder_that_the_next_one_removes(lab):
    program = "import time; from tests.lab.cluster import Cluster\n"
    program += "with Cluster() as c: print(c.folder, flush=True); time.sleep(99)"
    other = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    folder = Path(other.stdout.readline().strip())
    other.kill()
    other.communicate()
    wait_until(lambda: not commands_with(str(folder)), 10, "its hosts to die")
    assert folder.is_dir() and folder.parent == BASE
    with Cluster():  # beside the one under test
        assert not folder.exists()
    assert lab.folder.exists() and set(node_states(lab.hosts["ctl"]).values()) == {"IDLE"}


def commands_with(word: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word.encode() in line:
            found.append(line)
    return found


def test_node_lists_are_read():
    assert expand("node[1-2,4]") == ["node1", "node2", "node4"]
    assert expand("node3") == ["node3"] and expand("(null)") == []


# -- faults -----------------------------------------------------------------------------------------------------------


def test_kill(lab):
    pid = inner_pid(lab.popen("node1", SPIN))
    with faults.killed(lab, "node1", pid, signal.SIGSEGV):
        assert lab.find("node1", *SPIN) == []


def test_stop(lab):
    pid = inner_pid(lab.popen("node1", SPIN))
    with faults.stopped(pid):
        before = cpu_s(pid)
        time.sleep(0.1)
        assert cpu_s(pid) == before
    assert state_of(pid) == "R"


def test_slow_rank(lab):
    pid = inner_pid(lab.popen("node1", SPIN))
    with faults.slow_rank(pid, share=0.2):
        before = cpu_s(pid)
        time.sleep(1.0)
        assert cpu_s(pid) - before < 0.6
    assert state_of(pid) == "R"


def test_host_death(lab):
    job = lab.sbatch("#!/bin/bash\nexec sleep 600", options=["--nodelist=node2"])
    lab.wait_job(job, "RUNNING", 30)
    wait_until(lambda: lab.find("node2", "sleep", "600"), 10, "the job's program")
    pids = lab.find("node2", "sleep", "600")
    with faults.host_death(lab, "node2"):
        assert lab.processes("node2") == [] and all(state_of(pid) == "X" for pid in pids)
    assert hears(lab, "node2", "ctl") and hears(lab, "ctl", "node2")
    lab.revive(idle=False)


@pytest.mark.parametrize("networks", [("eth0", "ib0"), ("ib0",)])
def test_link_cut(lab, networks):
    with faults.link_cut(lab, "node3", networks):
        assert hears(lab, "ctl", "node3", "eth0") == ("eth0" not in networks)
        assert lab.run("node3", ["ping", "-c1", "-W1", "localhost"]).returncode == 0
    assert hears(lab, "ctl", "node3", "ib0")


@pytest.mark.parametrize("direction", ["in", "out"])
def test_link_cut_one_way(lab, direction):
    with faults.link_cut_one_way(lab, "node3", direction):
        assert hears(lab, "node1", "node3") == (direction == "in")
        assert hears(lab, "node3", "node1") == (direction == "out")
    assert hears(lab, "node1", "node3") and hears(lab, "node3", "node1")


def test_packet_loss(lab):
    with faults.packet_loss(lab, "node1", 0.05):
        assert 0 < datagrams_lost(lab, "node2", "node1", 1000) < 200
        assert datagrams_lost(lab, "node2", "node3", 1000) == 0
    assert datagrams_lost(lab, "node2", "node1", 1000) == 0


def test_bandwidth_limit(lab):
    with faults.bandwidth_limit(lab, "node1", 50_000_000):
        assert bits_per_s(lab, "node2", "node1", 2_000_000, "ib0") < 65_000_000
    assert bits_per_s(lab, "node2", "node1", 20_000_000, "ib0") > 65_000_000


def test_full_disk(lab):
    folder = lab.shared / "small"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/before").write_text("kept")
    with faults.full_disk(lab, folder, 1 << 20, fill=False) as disk:
        assert lab.run("node4", ["cat", str(folder / "inner/before")]).stdout == "kept"
        assert lab.run("node1", ["bash", "-c", f"echo new >{folder}/after"]).returncode == 0
        disk.fill()
        assert write_error(lab, "node2", folder) == errno.ENOSPC
        disk.free()
        assert write_error(lab, "node2", folder) == 0
        disk.fill()
    assert (folder / "inner/before").read_text() == "kept" and (folder / "after").read_text() == "new\n"
    assert sorted(os.listdir(folder)) == ["after", "inner"]
    assert write_error(lab, "node1", folder) == 0


def test_read_only_folder(lab):
    folder = lab.shared / "fixed"
    folder.mkdir()
    (folder / "file").write_text("old")
    with faults.read_only(lab, folder):
        assert lab.run("node1", ["bash", "-c", f"echo new >{folder}/file"]).returncode == 1
        assert lab.run("node1", ["mv", f"{folder}/file", f"{folder}/other"]).returncode == 1
        assert lab.run("node1", ["touch", f"{lab.shared}/beside"]).returncode == 0
    assert (folder / "file").read_text() == "old" and write_error(lab, "node1", folder) == 0


def test_slurmctld_restart_keeps_the_job(lab):
    job = lab.sbatch("#!/bin/bash\nexec sleep 600")
    lab.wait_job(job, "RUNNING", 30)
    with faults.slurmctld_restart(lab):
        assert daemon(lab.hosts["ctl"], "slurmctld") is None
        assert lab.run("ctl", ["scontrol", "ping"]).returncode != 0
    assert lab.wait_job(job, "RUNNING", 30).restarts == 0
