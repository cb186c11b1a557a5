"""What the supervisor must know when it is started again: kept in the run directory, replaced whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.supervisor.ledger import Record


@dataclass
class State:
    """All of it; JSON values.

    Attributes:
        epoch: of the newest attempt; only ever grows.
        asked: ranks on the supervisor's command line.
        wanted: ranks that are wanted now; a resize or rollback changes them.
        supervised_s: seconds supervised before this supervisor was started.
        fruitless: attempts in a row that ended in a fault without a new checkpoint.
        strikes: wall clock of the faults on each node.
        networks_lost: interfaces that broke, by name.
        resume: checkpoint the next attempt has to go on from, where a person chose one.
        ending: seconds after which the newest attempt's ranks are surely dead, while nobody has seen them end; else 0.
        idle_requeues: requeues in a row by supervisors whose attempts saved nothing.
        records: the attempts, oldest first.
    """

    epoch: int = 0
    asked: int = 0
    wanted: int = 0
    supervised_s: float = 0.0
    fruitless: int = 0
    strikes: dict[str, list[float]] = field(default_factory=dict)
    networks_lost: list[str] = field(default_factory=list)
    resume: str | None = None
    ending: float = 0.0
    idle_requeues: int = 0
    records: list[Record] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Raises OSError."""
        write_atomic(path, json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


def load_state(path: Path) -> State:
    """The state kept at `path`; a new one where there is none. Raises UserError for what no supervisor wrote."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content["records"] = [Record(**record) for record in content["records"]]
        return State(**content)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} can't be read: {error}", f"move it away to start a new account: mv {path} {path}.damaged"
        ) from None
