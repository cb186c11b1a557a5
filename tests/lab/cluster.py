"""The cluster: a Slurm controller (`ctl`) and four nodes on one machine, to run jobs on and to break."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tests.lab.hosts import HOSTS, NETWORKS, SYSTEM_PATH, Host, LabError, Process, Switch, checked, why_impossible
from tests.lab.leftovers import BASE, make, new_folder, owner_lives, remove, remove_leftovers
from tests.lab.slurm import (
    DAEMONS,
    ENDED,
    NODES,
    Job,
    daemon,
    node_states,
    parse_job,
    start_daemons,
    start_slurm,
    wait_until,
    write_files,
)


class Cluster:
    """A context manager: up in seconds, and nothing left of it afterwards. Made and used in the main thread."""

    def __init__(self, in_background: bool = False) -> None:
        self.folder = new_folder()
        self.in_background = in_background
        self.nodes = list(NODES)
        self._wire()

    def _wire(self) -> None:
        self.shared = self.folder / "shared"
        self.switch = Switch(self.folder)
        self.hosts = {name: Host(name, self.folder, self.switch) for name in HOSTS}
        self._programs: list[subprocess.Popen[str]] = []

    @classmethod
    def attach(cls) -> Cluster | None:
        """The one that runs in the background; None where there is none."""
        for record in BASE.glob("ryzen_mpi_lab-*/lab.json"):
            data = json.loads(record.read_text())
            if data["in_background"] and owner_lives(record.parent):
                found = cls(in_background=True)
                found.folder = record.parent
                found._wire()
                found.switch.init = data["inits"]["switch"]
                for name, host in found.hosts.items():
                    host.init = data["inits"][name]
                return found
        return None

    # -- up and down --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        reason = why_impossible()
        if reason:
            raise LabError(reason)
        remove_leftovers()
        make(self.folder)
        try:
            write_files(self.folder)
            self.switch.start()
            for host in self.hosts.values():
                host.start()
                start_daemons(host)
            self.revive(timeout_s=60)
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """Kills every host and leaves the machine as it was."""
        for host in (*self.hosts.values(), self.switch):
            host.kill()
        self.end_programs()
        remove(self.folder)

    def _record(self) -> None:
        inits = {space.name: space.init for space in (*self.hosts.values(), self.switch)}
        text = json.dumps({"in_background": self.in_background, "inits": inits})
        (self.folder / "lab.json.new").write_text(text)
        (self.folder / "lab.json.new").rename(self.folder / "lab.json")

    # -- programs -----------------------------------------------------------------------------------------------------

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What programs in the lab get: nothing of the launcher or the test that started it, and `env` on top."""
        kept = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "ENV_VENV", "ENV_MPI")
        base = {key: os.environ[key] for key in kept if key in os.environ}
        base["PATH"] = f"{Path(sys.executable).parent}:{SYSTEM_PATH}"
        base |= {"HOME": str(self.shared), "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash"}
        return base | dict(env or {})

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **options: object,
    ) -> subprocess.Popen[str]:
        """Starts a program on a host; its pid is that of nsenter, `inner_pid` gives the program's.

        stdin is closed, output goes to pipes, `options` are those of Popen. It starts in the shared folder.
        """
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = self.hosts[host].command(argv, cwd or self.shared)
        process = subprocess.Popen(
            command, env=self.environment(env), text=True, errors="replace", start_new_session=True, **(pipes | options)
        )
        self._programs.append(process)
        return process

    def run(
        self,
        host: str,
        argv: Sequence[str],
        timeout_s: float = 60.0,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program on a host to its end, whatever its exit code; killed after `timeout_s` (TimeoutExpired)."""
        process = self.popen(host, argv, env=env, cwd=cwd)
        try:
            out, err = process.communicate(timeout=timeout_s)
        finally:
            _kill_group(process)
            self._programs.remove(process)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def processes(self, host: str) -> list[Process]:
        """All but init, with the pids they have outside of the lab; none on a dead host."""
        space = self.hosts[host]
        return space.processes() if space.is_alive else []

    def find(self, host: str, *words: str) -> list[int]:
        """Pids (outside of the lab) of processes with all `words` among their arguments."""
        return [process.pid for process in self.processes(host) if set(words) <= set(process.argv)]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def slurm(self, *argv: str) -> str:
        """What a Slurm command prints on `ctl`; LabError with its complaint where it fails."""
        return checked(self.hosts["ctl"].command(argv, self.shared), env=self.environment())

    def sbatch(
        self,
        script: Path | str,
        *args: str,
        options: Sequence[str] = (),
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Submits a batch file (or text that starts with #!) from `ctl` as a person does; its number."""
        if str(script).startswith("#!"):
            text, script = str(script), self.shared / f"batch-{os.urandom(4).hex()}.sh"
            script.write_text(text)
        words = ["sbatch", "--parsable", *options, str(script), *args]
        done = self.run("ctl", words, env=env, cwd=cwd)
        if done.returncode:
            raise LabError(f"{' '.join(words)}: {' '.join(done.stderr.split())}")
        return int(done.stdout.split(";")[0])

    def job(self, number: int) -> Job:
        return parse_job(self.slurm("scontrol", "show", "job", "-o", str(number)))

    def wait_job(self, number: int, states: str | Collection[str] = ENDED, timeout_s: float = 120.0) -> Job:
        """Until the job is in one of `states`. LabError after `timeout_s`, or once it has ended otherwise."""
        wanted = {states} if isinstance(states, str) else set(states)
        end = time.monotonic() + timeout_s
        going = time.monotonic()
        while True:
            job, now = self.job(number), time.monotonic()
            if job.state in wanted:
                return job
            # A requeued job passes through an ended state on its way to PENDING: one that stays there has ended.
            going = going if job.state in ENDED else now
            if now > end or now - going > 5:
                where = f"job {number} is {job.state} ({job.reason}) on {','.join(job.nodes) or 'no node'}"
                raise LabError(f"{where}, and not {' or '.join(sorted(wanted))}")
            time.sleep(0.2)

    # -- after a test -------------------------------------------------------------------------------------------------

    def strays(self) -> list[tuple[str, Process]]:
        """Host and process of everything that is not part of the lab itself."""
        return [(host, p) for host in HOSTS for p in self.processes(host) if p.name not in DAEMONS]

    def check_clean(self, grace_s: float = 10.0) -> None:
        """AssertionError with the names of processes that are still there; Slurm's own get `grace_s` to go."""
        end = time.monotonic() + grace_s
        while (left := self.strays()) and time.monotonic() < end:
            time.sleep(0.1)
        names = "; ".join(f"{host}: {p.pid} {' '.join(p.argv)[:200]}" for host, p in left)
        assert not left, f"left behind in the lab: {names}"

    def kill_stray_jobs(self) -> None:
        """Cancels all jobs and kills every process that is not the lab's own."""
        self.end_programs()
        if node_states(self.hosts["ctl"]):
            self.cancel_jobs()
        for _, process in self.strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def cancel_jobs(self, timeout_s: float = 90.0) -> None:
        """Cancels all jobs and waits until Slurm has none."""
        end = time.monotonic() + timeout_s
        while jobs := self.slurm("squeue", "-h", "-a", "-t", "all", "-o", "%i %t").split("\n")[:-1]:
            going = [line.split()[0] for line in jobs if line.split()[1] in ("PD", "R", "CG", "CF", "S", "RQ", "RH")]
            if not going:
                return
            if time.monotonic() > end:
                raise LabError(f"jobs {', '.join(going)} cannot be cancelled")
            with contextlib.suppress(LabError):
                self.slurm("scancel", *going)
            time.sleep(0.2)

    def end_programs(self) -> None:
        """Kills what `popen` started and still runs."""
        for process in self._programs:
            _kill_group(process)
        self._programs.clear()

    def revive(self, timeout_s: float = 90.0, idle: bool = True) -> None:
        """All as it was at first: hosts and daemons run, links are up, no filter or limit, nothing is stopped.

        Returns when all nodes are idle, or, without `idle`, when they answer and may still have jobs.
        """
        for host in self.hosts.values():
            if not host.is_alive:
                self.boot(host.name)
        self._record()
        for name, host in self.hosts.items():
            self.switch.ip([f"link set {name}-{network} up" for network in NETWORKS])
            self._clear_faults(host)
            if daemon(host, "slurmctld" if name == "ctl" else "slurmd") is None:
                start_slurm(host)
        wait_until(lambda: self._nodes_well(idle), timeout_s, "all nodes to be idle" if idle else "all nodes to answer")

    def _clear_faults(self, host: Host) -> None:
        checked(host.command(["iptables", "-F"]))
        for network in NETWORKS:
            host.limit_bandwidth(network, None)
        for process in host.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    def boot(self, name: str) -> None:
        """Starts a dead host and its daemons."""
        host = self.hosts[name]
        host.kill()
        host.start()
        start_daemons(host)
        self._record()

    def _nodes_well(self, idle: bool) -> bool:
        states = node_states(self.hosts["ctl"])
        for name, state in states.items():
            if re.search(r"DOWN|DRAIN|FAIL", state) and not state.endswith("*"):
                with contextlib.suppress(LabError):
                    self.slurm("scontrol", "update", f"nodename={name}", "state=resume")
        well = {"IDLE"} if idle else {"IDLE", "MIXED", "ALLOCATED", "COMPLETING"}
        return bool(states) and all(set(state.split("+")) <= well for state in states.values())


def inner_pid(process: subprocess.Popen[str]) -> int:
    """The pid (outside of the lab) of what `Cluster.popen` started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: children.exists() and children.read_text().split(), 10, "the program to start", 0.01)
    return int(children.read_text().split()[0])


def _kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL to nsenter and the program, and waits."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
