"""The four phases of a cluster's life: how many nodes, for how long. Batch files are rendered from this table."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ryzen_mpi.errors import UserError

HOUR_S = 3600


@dataclass(frozen=True)
class Phase:
    """One row of the table.

    Attributes:
        name: "1", "2a", "2b" or "2c"; the batch file is slurm/phase<name>.sh.
        nodes, ranks_per_node: the ranks' places. Ranks of a node share its NUMA domains evenly.
        cpus_per_rank: the least a rank gets; the nodes are the job's alone, so it may be more.
        soak_s: how long the phase has to run undisturbed.
        margin_s: added to that for starting, restarting and saving.
        warning_s: how long before the limit the job is asked to save and leave.
    """

    name: str
    nodes: int
    soak_s: int
    ranks_per_node: int = 4
    cpus_per_rank: int = 4
    margin_s: int = HOUR_S // 2
    warning_s: int = 600

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def limit_s(self) -> int:
        """The job's time limit."""
        return self.soak_s + self.margin_s

    @property
    def job_name(self) -> str:
        return f"phase{self.name}"


PHASES = {
    phase.name: phase
    for phase in (
        Phase("1", nodes=1, soak_s=24 * HOUR_S),
        Phase("2a", nodes=2, soak_s=48 * HOUR_S),
        Phase("2b", nodes=3, soak_s=24 * HOUR_S),
        Phase("2c", nodes=4, soak_s=48 * HOUR_S),
    )
}


def phase(name: str) -> Phase:
    """The phase called `name`: "2b" or "phase2b". Raises UserError."""
    found = PHASES.get(name.lower().removeprefix("phase"))
    if found is None:
        names = [each.job_name for each in PHASES.values()]
        near = difflib.get_close_matches(name.lower(), names, n=1)
        suggestion = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no phase {name!r}", f"{suggestion}phases: {', '.join(names)}")
    return found
