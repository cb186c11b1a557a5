"""Slurm in the lab: its files and its daemons."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.hosts import HOSTS, NETWORKS, Host, LabError, checked

NODES = [name for name in HOSTS if name != "ctl"]
DAEMONS = {"munged", "slurmd", "slurmctld", "slurmscriptd"}

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY")
"""The states in which a job is over, unless it is requeued."""

# cred_expire: a requeued job waits that long plus a second before it may start again (else two minutes).
# MinJobAge: jobs that ended stay to be looked at. CPUs: more than the machine has, hence config_overrides.
SLURM_CONF = """\
ClusterName=lab
SlurmctldHost=ctl({ctl})
AuthType=auth/munge
AuthInfo=cred_expire=10
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=20
MessageTimeout=10
TCPTimeout=3
KillWait=5
MinJobAge=86400
JobRequeue=1
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={} NodeAddr={} CPUs=16 Sockets=2 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000"


def write_files(folder: Path) -> None:
    """Everything Slurm, munge and the hosts read, and the folders they write to."""
    for name in ("etc/slurm", "state", "log", "shared", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    eth0 = NETWORKS["eth0"]
    nodes = "\n".join(NODE.format(node, f"{eth0}.{HOSTS[node]}") for node in NODES)
    conf = SLURM_CONF.format(ctl=f"{eth0}.{HOSTS['ctl']}", folder=folder, nodes=nodes)
    (folder / "etc/slurm/slurm.conf").write_text(conf)
    # Slurm 22.05 looks for cgroup v2 otherwise, and its daemons do not start.
    (folder / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    lines = ["127.0.0.1 localhost"]
    for number, (network, first) in enumerate(NETWORKS.items()):
        lines += [f"{first}.{last} {name}{f'-{network}' if number else ''}" for name, last in HOSTS.items()]
    (folder / "etc/hosts").write_text("\n".join(lines) + "\n")
    key = folder / "etc/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))


def start_daemons(host: Host) -> None:
    """munge and the host's own Slurm daemon; returns when they have become daemons."""
    key = host.folder / "etc/munge.key"
    files = [f"--{what}-file=/run/munge.{what}" for what in ("pid", "seed", "log")]
    munged = ["munged", f"--key-file={key}", "--socket=/run/munge/munge.socket.2", "--num-threads=2", *files]
    checked(host.command(["mkdir", "-p", "-m", "755", "/run/munge"]))
    checked(host.command(munged))
    start_slurm(host)


def start_slurm(host: Host) -> None:
    checked(host.command(["slurmctld"] if host.name == "ctl" else ["slurmd", "-N", host.name]))


def daemon(host: Host, name: str) -> int | None:
    """Its pid outside of the lab; None where it does not run."""
    pids = [process.pid for process in host.processes() if process.name == name]
    return pids[0] if pids else None


@dataclass
class Job:
    """What `scontrol show job` says."""

    id: int
    state: str
    reason: str
    restarts: int
    nodes: list[str]
    """Those it has or had; empty while it waits."""

    fields: dict[str, str]
    """All, by Slurm's names."""


def parse_job(text: str) -> Job:
    fields = dict(re.findall(r"(?:^|\s)([A-Z][\w/:]*)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)", text))
    nodes = expand(fields.get("NodeList", ""))
    number = int(fields["JobId"])
    return Job(number, fields["JobState"], fields["Reason"], int(fields["Restarts"]), nodes, fields)


def expand(nodes: str) -> list[str]:
    """The names in `node[1-2,4]` or `node3`."""
    match = re.fullmatch(r"node\[([\d,-]+)\]", nodes)
    if not match:
        return [] if nodes in ("", "(null)") else nodes.split(",")
    names = []
    for part in match[1].split(","):
        first, _, last = part.partition("-")
        names += [f"node{number}" for number in range(int(first), int(last or first) + 1)]
    return names


def node_states(host: Host) -> dict[str, str]:
    """State of each node in Slurm's words (IDLE, DOWN*, IDLE+DRAIN), asked on `host`; none where slurmctld is mute."""
    with contextlib.suppress(LabError, subprocess.TimeoutExpired):
        text = checked(host.command(["scontrol", "show", "node", "-o"]))
        return dict(re.findall(r"NodeName=(\S+) .*? State=(\S+)", text))
    return {}


def wait_until(condition: Callable[[], object], timeout_s: float, what: str, pause_s: float = 0.1) -> None:
    """Until `condition()` is true; a LabError that names `what` was waited for."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(pause_s)
