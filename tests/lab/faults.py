"""Faults as context managers. Each asserts that it took: an injected fault that does nothing proves nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.cluster import Cluster
from tests.lab.hosts import NETWORKS, checked, state_of
from tests.lab.probes import bits_per_s, datagrams_lost, hears, write_error
from tests.lab.slurm import daemon, start_slurm, wait_until

# -- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def killed(cluster: Cluster, host: str, pid: int, number: int = signal.SIGKILL) -> Iterator[None]:
    """Signal `number`, one that ends it, to a process on `host`, by its pid outside of the lab; gone at entry."""
    assert pid in [process.pid for process in cluster.processes(host)], f"no process {pid} on {host}"
    os.kill(pid, number)
    _until(lambda: state_of(pid) in "ZX", f"process {pid} outlived signal {number}")
    yield


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP at entry, SIGCONT at exit, if it still lives."""
    os.kill(pid, signal.SIGSTOP)
    _until(lambda: state_of(pid) == "T", f"process {pid} did not stop")
    try:
        yield
    finally:
        _continue(pid)
    _until(lambda: state_of(pid) != "T", f"process {pid} stays stopped")


@contextmanager
def slow_rank(pid: int, share: float = 0.2, period_s: float = 0.1) -> Iterator[None]:
    """Lets a process run for no more than `share` of the time, by stopping it over and over."""
    ended = threading.Event()
    seen = []

    def throttle() -> None:
        while state_of(pid) not in "ZX":
            os.kill(pid, signal.SIGSTOP)
            gone = ended.wait(period_s * (1 - share))
            seen.append(state_of(pid))
            _continue(pid)
            if gone or ended.wait(period_s * share):
                return

    thread = threading.Thread(target=throttle, daemon=True)
    thread.start()
    try:
        _until(lambda: seen.count("T") >= 3, f"process {pid} was not slowed")
        yield
    finally:
        ended.set()
        thread.join()
        _continue(pid)


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


# -- hosts and daemons ------------------------------------------------------------------------------------------------


@contextmanager
def host_death(cluster: Cluster, host: str) -> Iterator[None]:
    """The host and all its processes vanish, as when the power fails; at exit it boots again with its daemons."""
    pids = [process.pid for process in cluster.processes(host)]
    cluster.hosts[host].kill()
    alive = [pid for pid in pids if state_of(pid) not in "ZX"]
    assert not alive, f"{host} is dead, but processes {alive} of it live"
    try:
        yield
    finally:
        cluster.boot(host)


@contextmanager
def slurmctld_restart(cluster: Cluster) -> Iterator[None]:
    """SIGKILL to slurmctld at entry; at exit it starts again from its state folder and answers."""
    host = cluster.hosts["ctl"]
    pid = daemon(host, "slurmctld")
    assert pid, "no slurmctld runs"
    with killed(cluster, "ctl", pid):
        # Its helper leaves by itself, and must have left: the new one starts its own.
        wait_until(lambda: not daemon(host, "slurmscriptd"), 20, "slurmscriptd to end")
        try:
            yield
        finally:
            start_slurm(host)
            wait_until(lambda: cluster.run("ctl", ["scontrol", "ping"]).returncode == 0, 30, "slurmctld to answer")
    assert daemon(host, "slurmctld") not in (None, pid), "slurmctld did not restart"


# -- networks ---------------------------------------------------------------------------------------------------------


@contextmanager
def link_cut(cluster: Cluster, host: str, networks: Sequence[str] = tuple(NETWORKS)) -> Iterator[None]:
    """The switch's ports to the host are off: nothing goes in or out over `networks`."""
    other = _other(host)
    for network in networks:
        cluster.switch.set_port(host, network, up=False)
    try:
        for network in networks:
            assert not hears(cluster, host, other, network), f"{host} still hears {other} over {network}"
            assert not hears(cluster, other, host, network), f"{other} still hears {host} over {network}"
        yield
    finally:
        for network in networks:
            cluster.switch.set_port(host, network, up=True)
    for network in networks:
        _until(lambda: hears(cluster, other, host, network), f"{network} of {host} stays cut")  # noqa: B023


@contextmanager
def link_cut_one_way(cluster: Cluster, host: str, direction: str) -> Iterator[None]:
    """The host drops what comes in (`direction="in"`), or what it sends (`"out"`), on all its interfaces."""
    other = _other(host)
    with _filtered(cluster, host, [{"in": "INPUT", "out": "OUTPUT"}[direction]]):
        for network in NETWORKS:
            assert hears(cluster, host, other, network) == (direction == "out"), f"{network} cut {direction}: hears"
            assert hears(cluster, other, host, network) == (direction == "in"), f"{network} cut {direction}: is heard"
        yield
    assert hears(cluster, other, host) and hears(cluster, host, other), f"{host} stays cut"


@contextmanager
def packet_loss(cluster: Cluster, host: str, probability: float) -> Iterator[None]:
    """Each packet that comes in or goes out, on any interface, is dropped with this probability."""
    words = ["-m", "statistic", "--mode", "random", "--probability", str(probability)]
    with _filtered(cluster, host, ["INPUT", "OUTPUT"], words):
        sent = int(20 / probability)  # none of them lost by luck: e^-20
        for sender, receiver in ((host, _other(host)), (_other(host), host)):
            lost = datagrams_lost(cluster, sender, receiver, sent)
            assert 0 < lost < 3 * sent * probability, f"{lost} of {sent} packets lost, not {probability:.1%}"
        yield


@contextmanager
def _filtered(cluster: Cluster, host: str, chains: Sequence[str], words: Sequence[str] = ()) -> Iterator[None]:
    """DROP in these chains, for all but loopback."""
    rules = [[chain, "!", {"INPUT": "-i", "OUTPUT": "-o"}[chain], "lo", *words, "-j", "DROP"] for chain in chains]
    inside = cluster.hosts[host]
    try:
        for rule in rules:
            checked(inside.command(["iptables", "-A", *rule]))
        yield
    finally:
        if inside.is_alive:  # a host that died meanwhile forgot them
            checked(inside.command(["iptables", "-F"]))


@contextmanager
def bandwidth_limit(cluster: Cluster, host: str, limit: int) -> Iterator[None]:
    """No more than `limit` bits per second each way, on each network. Measured on eth0 both ways."""
    inside = cluster.hosts[host]
    try:
        for network in NETWORKS:
            inside.limit_bandwidth(network, limit)
        for sender, receiver in ((host, _other(host)), (_other(host), host)):
            rate = bits_per_s(cluster, sender, receiver, size=limit // 8 // 2)
            assert rate < 1.3 * limit, f"{sender} sends {rate:.3g} bit/s to {receiver}, limited to {limit:.3g}"
        yield
    finally:
        if inside.is_alive:
            for network in NETWORKS:
                inside.limit_bandwidth(network, None)


# -- disks ------------------------------------------------------------------------------------------------------------


@dataclass
class SmallDisk:
    """A file system of its own under a folder in the lab."""

    folder: Path
    """As the hosts name it."""

    outside: Path
    """The same, for one who is outside of the lab."""

    def fill(self) -> None:
        """Takes what room is left; asserts that no byte is."""
        with open(self.outside / ".ballast", "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
        assert os.statvfs(self.outside).f_bavail == 0

    def free(self) -> None:
        """Gives the room back."""
        (self.outside / ".ballast").unlink(missing_ok=True)


@contextmanager
def full_disk(cluster: Cluster, folder: Path, size_bytes: int, fill: bool = True) -> Iterator[SmallDisk]:
    """`folder`, in the lab's folder, becomes a disk of `size_bytes`, with what was in it; full, or to `fill()` later.

    All hosts see it, who is outside does not (see `SmallDisk.outside`). At exit what is on it is copied back. Programs
    that run in the folder or have files open there at entry or exit keep the disk they know.
    """
    cluster.switch.mount("-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs", str(folder))
    disk = SmallDisk(folder, cluster.switch.outside(folder))
    try:
        shutil.copytree(folder, disk.outside, symlinks=True, dirs_exist_ok=True)
        if fill:
            disk.fill()
            for host in cluster.nodes:
                assert write_error(cluster, host, folder) == errno.ENOSPC, f"{host} still has room in {folder}"
        yield disk
    finally:
        disk.free()
        for path in folder.iterdir():  # not the folder: that would take the disk off it
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(disk.outside, folder, symlinks=True, dirs_exist_ok=True)
        cluster.switch.unmount(folder)


@contextmanager
def read_only(cluster: Cluster, folder: Path) -> Iterator[None]:
    """`folder`, in the lab's folder, cannot be written on any host, by root neither. It can from outside of the lab.

    Files that are open for writing at entry stay so.
    """
    # Bound twice: the hosts get a copy of a mount as it is when it is made, and do not follow when it is changed.
    staging = Path("/run/read-only")
    cluster.switch.make_folder(staging)
    cluster.switch.mount("--bind", "--make-private", str(folder), str(staging))
    cluster.switch.mount("-o", "remount,bind,ro", str(staging))
    cluster.switch.mount("--bind", str(staging), str(folder))
    try:
        for host in cluster.hosts:
            assert write_error(cluster, host, folder) == errno.EROFS, f"{host} can write to {folder}"
        yield
    finally:
        cluster.switch.unmount(folder)
        cluster.switch.unmount(staging)
    for host in cluster.hosts:
        assert write_error(cluster, host, folder) == 0, f"{folder} stays read-only on {host}"


# -- what they ask ----------------------------------------------------------------------------------------------------


def _other(host: str) -> str:
    return "ctl" if host != "ctl" else "node1"


def _until(condition: Callable[[], object], otherwise: str, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.005)
