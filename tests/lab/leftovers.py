"""What a lab changes outside of its hosts: a folder, and a setting of the kernel.

The folder tells by its name who made it: what a killed test run left is found and undone, and labs run side by side.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.lab.scheduling import regroup, ungroup

BASE = Path("/var/tmp")
"""On a real disk, and not /tmp, which is private to each host."""


def new_folder() -> Path:
    """A name for the folder of a lab that this process makes."""
    return BASE / f"ryzen_mpi_lab-{os.getpid()}-{_started(os.getpid())}-{os.urandom(3).hex()}"


def make(folder: Path) -> None:
    """The folder, and a kernel that lets hosts share cores; `remove` undoes both."""
    folder.mkdir()
    ungroup(folder)


def remove(folder: Path) -> None:
    regroup(folder)
    shutil.rmtree(folder, ignore_errors=True)


def owner(folder: Path) -> int:
    """The pid of the process that made the lab."""
    return int(folder.name.split("-")[1])


def owner_lives(folder: Path) -> bool:
    return _started(owner(folder)) == int(folder.name.split("-")[2])


def remove_leftovers() -> None:
    """Undoes what labs left whose makers are dead; the hosts died with them."""
    for folder in BASE.glob("ryzen_mpi_lab-*"):
        if not owner_lives(folder):
            remove(folder)


def _started(pid: int) -> int:
    """When the process started, in ticks since boot: tells it from a later one of the same pid. 0: there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except OSError:
        return 0
