"""`python -m tests.lab up|down|status|in HOST CMD...|table`: a Slurm cluster on this machine to play with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.cluster import Cluster
from tests.lab.hosts import HOSTS, LabError, why_impossible
from tests.lab.leftovers import owner, remove_leftovers

USAGE = """\
usage: python -m tests.lab up|down|status|in HOST CMD...|table
  up              start the cluster and leave it running
  in HOST CMD...  run CMD on ctl, node1, node2, node3 or node4
  status          its hosts and what Slurm says of them
  down            end it, with everything that runs in it
  table [ARG...]  run all scenarios (ARG: for pytest) and put their table into the lab's README"""


def up() -> int:
    running = Cluster.attach()
    if running:
        raise LabError(f"the lab is up already, in {running.folder}")
    reason = why_impossible()
    if reason:
        raise LabError(reason)
    began = time.monotonic()
    read, write = os.pipe()
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", "keep", str(write)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    if not said.startswith("up "):
        keeper.wait()
        raise LabError(said or "the lab's keeper died")
    print(f"up in {time.monotonic() - began:.1f} s; all hosts see {said[3:]}")
    print("python -m tests.lab in node1 sinfo")
    return 0


def keep(write: int) -> int:
    """Holds the cluster until it is told to end; says over the pipe that it is up, or why not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with os.fdopen(write, "w") as pipe:
        try:
            cluster = Cluster(in_background=True).__enter__()
        except Exception as error:
            pipe.write(str(error))
            return 1
        pipe.write(f"up {cluster.shared}")
    try:
        while True:
            signal.pause()
    finally:
        cluster.down()


def the_running_one() -> Cluster:
    cluster = Cluster.attach()
    if cluster is None:
        raise LabError("no lab is up; start one: python -m tests.lab up")
    return cluster


def down() -> int:
    cluster = the_running_one()
    keeper = owner(cluster.folder)
    os.kill(keeper, signal.SIGTERM)
    end = time.monotonic() + 20
    while cluster.folder.exists():
        if time.monotonic() > end:
            os.kill(keeper, signal.SIGKILL)  # the hosts go with it
            remove_leftovers()
            break
        time.sleep(0.02)
    print("down")
    return 0


def status() -> int:
    cluster = the_running_one()
    print(f"all hosts see {cluster.shared}; logs are in {cluster.folder}/log")
    for name, host in cluster.hosts.items():
        state = f"{len(cluster.processes(name))} processes" if host.is_alive else "dead"
        print(f"{name:6} {host.address('eth0'):12} {host.address('ib0'):12} {state}")
    print(cluster.slurm("sinfo"), end="")
    return 0


def inside(host: str, words: list[str]) -> int:
    if host not in HOSTS:
        raise LabError(f"{host}: no such host; there are {', '.join(HOSTS)}")
    cluster = the_running_one()
    if not cluster.hosts[host].is_alive:
        raise LabError(f"{host} is dead")
    cwd = Path.cwd() if not str(Path.cwd()).startswith("/tmp") else cluster.shared
    command = cluster.hosts[host].command(words, cwd)
    return subprocess.run(command, env=cluster.environment()).returncode


def main(words: list[str]) -> int:
    match words:
        case ["up"]:
            return up()
        case ["keep", write]:
            return keep(int(write))
        case ["down"]:
            return down()
        case ["status"]:
            return status()
        case ["table", *arguments]:
            from tests.lab import results

            return results.make(arguments)
        case ["in", host, _, *_]:
            return inside(host, words[2:])
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)
