"""Hosts that are namespaces: each its own network, name, mounts, processes and shared memory; and the switch between.

Nothing has a name outside: a host is its init process, and dies with it. Init dies with the process that made the lab,
so a killed test run leaves no more than its folder, which the next lab removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parents[1]
NETWORKS = {"eth0": "10.77.0", "ib0": "10.78.0"}
"""Interface and first three numbers of the addresses. Slurm talks over eth0."""

HOSTS = {"ctl": 10, "node1": 11, "node2": 12, "node3": 13, "node4": 14}
"""Name and last number of the addresses."""


class LabError(Exception):
    """The lab cannot be made or does not answer; the message is one line for people."""


@dataclass
class Process:
    pid: int
    """As seen outside of the lab."""

    name: str
    argv: list[str]


class Namespace:
    """One init process and the namespaces it holds: a host, or the switch."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.init = 0
        self._holder: subprocess.Popen[str] | None = None

    @property
    def is_alive(self) -> bool:
        return self.init > 0 and Path(f"/proc/{self.init}/ns/pid").exists() and state_of(self.init) not in "ZX"

    def _start(self, enter: Sequence[str], kinds: Sequence[str], script: str, *words: str) -> None:
        # The death signal goes out when the thread that started the holder ends: hosts are made in the main thread.
        command = ["setpriv", "--pdeathsig", "KILL", "--", *enter, "unshare", *kinds, "--pid", "--fork"]
        command += ["--mount-proc", "--kill-child", "bash", str(HERE / script), str(self.folder), *words]
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said = self._holder.stdout.readline()
        if said != "ready\n":
            said += self._holder.stdout.read()
            self._holder.wait()
            raise LabError(f"namespaces of {self.name} cannot be made: {' '.join(said.split()) or 'no reason given'}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.init = int(children[0])

    def kill(self) -> None:
        """SIGKILL to init: the kernel ends all other processes in there. Returns when none is left."""
        if self.is_alive:
            os.kill(self.init, signal.SIGKILL)
        end = time.monotonic() + 20
        while self.is_alive:
            if time.monotonic() > end:
                raise LabError(f"{self.name} does not die")
            time.sleep(0.005)
        if self._holder is not None:
            self._holder.wait(timeout=20)
            self._holder.stdout.close()
            self._holder = None

    def command(self, argv: Sequence[str], cwd: Path | str = "/") -> list[str]:
        """The words that start `argv` in here. The working directory is entered inside, for mounts differ."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "--"]
        return [*enter, "env", "-C", str(cwd), *map(str, argv)]

    def processes(self) -> list[Process]:
        """All that run in here but init, zombies left out."""
        namespace = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == self.init:
                continue
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == namespace and state_of(int(entry)) not in "ZX":
                    argv = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                    name = Path(f"/proc/{entry}/comm").read_text().strip()
                    found.append(Process(int(entry), name, argv[:-1]))
        return sorted(found, key=lambda process: process.pid)


class Switch(Namespace):
    """Two bridges, one for each network, each with a port for each host."""

    def __init__(self, folder: Path) -> None:
        super().__init__("switch", folder)

    def start(self) -> None:
        self._start([], ["--net", "--uts", "--mount", "--ipc"], "switch.sh")
        self.ip(f"link add name {network} up type bridge" for network in NETWORKS)

    def ip(self, lines: object) -> None:
        """Lines for `ip -batch` in the switch's network."""
        batch(["nsenter", "-t", str(self.init), "-n", "--"], list(lines))

    def set_port(self, host: str, network: str, up: bool) -> None:
        self.ip([f"link set {host}-{network} {'up' if up else 'down'}"])

    def is_up(self, host: str, network: str) -> bool:
        """Whether the port is switched on."""
        words = ["nsenter", "-t", str(self.init), "-n", "ip", "-o", "link", "show", f"{host}-{network}"]
        flags = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("<")[1].split(">")[0]
        return "UP" in flags.split(",")

    def outside(self, path: Path | str) -> Path:
        """The same file as the hosts see it, for one who is outside and does not see what the lab mounted."""
        return Path(f"/proc/{self.init}/root{path}")

    def mount(self, *words: str) -> None:
        """Calls `mount` where all hosts take part in it."""
        checked(self.command(["mount", *words]))

    def make_folder(self, folder: Path) -> None:
        """In what the switch alone sees."""
        checked(self.command(["mkdir", "-p", str(folder)]))

    def unmount(self, folder: Path) -> None:
        checked(self.command(["umount", "-l", str(folder)]))


class Host(Namespace):
    """A machine on the switch's two networks."""

    def __init__(self, name: str, folder: Path, switch: Switch) -> None:
        super().__init__(name, folder)
        self.switch = switch

    def address(self, network: str = "eth0") -> str:
        return f"{NETWORKS[network]}.{HOSTS[self.name]}"

    def start(self) -> None:
        """Boots: namespaces, then cables. Hardware addresses stay those from before, as others remember them."""
        kept = [path for path in {str(REPO), sys.prefix, sys.base_prefix} if path.startswith("/tmp/")]
        enter = ["nsenter", "-t", str(self.switch.init), "-m", "--"]
        kinds = ["--net", "--uts", "--mount", "--propagation", "slave", "--ipc"]
        self._start(enter, kinds, "host.sh", self.name, *kept)
        for number, network in enumerate(NETWORKS):
            port, hardware = f"{self.name}-{network}", f"02:77:00:00:0{number}:{HOSTS[self.name]}"
            with contextlib.suppress(LabError):  # a dead host's port goes by itself, some time
                self.switch.ip([f"link del {port}"])
            peer = f"peer name {network} address {hardware} netns {self.init}"
            self.switch.ip([f"link add name {port} type veth {peer}", f"link set {port} master {network} up"])
        lines = ["link set lo up"]
        for network in NETWORKS:
            lines += [f"addr add {self.address(network)}/24 dev {network}", f"link set {network} up"]
        batch(["nsenter", "-t", str(self.init), "-n", "--"], lines)

    def limit_bandwidth(self, network: str, bits_per_s: int | None) -> None:
        """Limits what this host sends and what the switch sends to it; None takes the limit away."""
        for space, device in ((self, network), (self.switch, f"{self.name}-{network}")):
            tc = ["nsenter", "-t", str(space.init), "-n", "tc", "qdisc"]
            if bits_per_s:
                # The burst is 5 ms of traffic, and at least a few packets.
                burst = max(bits_per_s // 8 // 200, 16_000)
                words = f"replace dev {device} root tbf rate {bits_per_s} burst {burst} latency 50ms".split()
                checked([*tc, *words])
            elif "tbf" in checked([*tc, "show", "dev", device]):
                checked([*tc, "del", "dev", device, "root"])


def state_of(pid: int) -> str:
    """The letter of the process's state; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "X"


def checked(argv: Sequence[str], stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """What the command printed; LabError with what it complained of where it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, env=env)
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())
        raise LabError(f"{' '.join(argv)}: {said}")
    return done.stdout


def batch(enter: Sequence[str], lines: Sequence[str]) -> None:
    checked([*enter, "ip", "-batch", "-"], "\n".join(lines) + "\n")


def why_impossible() -> str | None:
    """Why no lab can be made on this machine; None where it can."""
    if os.geteuid() != 0:
        return "the lab needs root (it makes namespaces)"
    programs = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "tc", "iptables", "unshare", "nsenter", "setpriv")
    missing = [name for name in programs if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        return f"the lab needs Slurm and network tools; not installed: {', '.join(missing)}"
    words = ["unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "true"]
    probe = subprocess.run(words, capture_output=True, text=True)
    if probe.returncode:
        return f"the lab needs namespaces, which are refused here: {' '.join(probe.stderr.split())}"
    return None


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
