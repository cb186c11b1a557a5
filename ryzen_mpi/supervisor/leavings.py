"""What an mpirun that was killed leaves among the machine's temporary files, and why it has to go.

mpirun keeps a folder `ompi.PID` there, with files that must not exist before it makes them. One that is killed cannot
remove it, and the mpirun that is given the same process number later ends before it starts anything, with "The PMIx
server's listener thread failed to start". Where `kernel.pid_max` is 32768, numbers come round within minutes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

BASE = "PRTE_MCA_prte_tmpdir_base"
"""Open MPI's variable that names another place than the one for temporary files."""


def trips_over_leavings(said: str) -> bool:
    """Whether an mpirun whose standard error was `said` ended, having started nothing, because of them. Pure.

    The next one has another process number, and will do.
    """
    return "listener thread failed to start" in said


def remove_leavings(pid: int) -> None:
    """Removes what the mpirun with process number `pid` left; it must have ended. Local, raises nothing."""
    shutil.rmtree(Path(os.environ.get(BASE) or tempfile.gettempdir()) / f"ompi.{pid}", ignore_errors=True)
