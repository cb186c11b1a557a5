"""What hosts can do to each other and to their disks, measured inside of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.cluster import Cluster

# The receiver's buffer holds all that comes, so that it is counted at its leisure once the sender is done.
COUNT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
s.bind((sys.argv[1], 0))
s.setblocking(False)
print(s.getsockname()[1], flush=True)
sys.stdin.readline()
count = 0
try:
    while s.recv(16):
        count += 1
except BlockingIOError:
    print(count)
"""
SEND = """
import contextlib, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[3])):
    with contextlib.suppress(OSError):  # a packet that a filter of this host drops
        s.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
    if number < 5 or number % 50 == 0:
        time.sleep(0.01)
time.sleep(0.05)
"""
TAKE = """
import socket, sys, time
s = socket.create_server((sys.argv[1], 0))
print(s.getsockname()[1], flush=True)
peer = s.accept()[0]
start, size = time.monotonic(), 0
while data := peer.recv(1 << 16):
    size += len(data)
print(size * 8 / (time.monotonic() - start))
"""
GIVE = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(bytes(int(sys.argv[3])))
"""
WRITE = """
import errno, os, sys
path = sys.argv[1] + f"/.probe-{os.uname().nodename}"
try:
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(1 << 16))
        os.fsync(file)
    os.unlink(path)
    print(0)
except OSError as error:
    print(error.errno)
    if os.path.exists(path):
        os.unlink(path)
"""


def _python(program: str, *words: object) -> list[str]:
    return [sys.executable, "-IS", "-c", program, *map(str, words)]


def _exchange(cluster: Cluster, sender: str, receiver: str, network: str, programs: Sequence[str], size: int) -> str:
    """What the receiving program says at its end, after the sending one was told its address and `size`."""
    address = cluster.hosts[receiver].address(network)
    taking = cluster.popen(receiver, _python(programs[0], address), stdin=subprocess.PIPE)
    port = taking.stdout.readline().strip()
    giving = cluster.run(sender, _python(programs[1], address, port, size))
    assert giving.returncode == 0, giving.stderr
    out, err = taking.communicate("\n", timeout=60)
    assert taking.returncode == 0, err
    return out


def datagrams_lost(cluster: Cluster, sender: str, receiver: str, sent: int, network: str = "eth0") -> int:
    """How many of so many datagrams do not arrive."""
    return sent - int(_exchange(cluster, sender, receiver, network, [COUNT, SEND], sent))


def hears(cluster: Cluster, receiver: str, sender: str, network: str = "eth0") -> bool:
    """Whether any of five datagrams that `sender` sends arrives."""
    return datagrams_lost(cluster, sender, receiver, 5, network) < 5


def bits_per_s(cluster: Cluster, sender: str, receiver: str, size: int, network: str = "eth0") -> float:
    """The rate at which `size` bytes go over one TCP connection."""
    return float(_exchange(cluster, sender, receiver, network, [TAKE, GIVE], size))


def write_error(cluster: Cluster, host: str, folder: Path) -> int:
    """The errno with which writing 64 KiB to a new file in `folder` fails; 0 where it does not."""
    done = cluster.run(host, _python(WRITE, folder))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
