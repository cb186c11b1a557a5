"""The check lists of daily, weekly and monthly operation: data, in phases/lists.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.errors import UserError

FILE = Path(__file__).parent / "phases" / "lists.yaml"


@dataclass(frozen=True)
class CheckList:
    """One list: its name, what it is for, and the checks it names."""

    name: str
    about: str
    checks: tuple[str, ...]


def read_lists(file: Path = FILE) -> dict[str, CheckList]:
    """The lists by name. Local. Raises UserError."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
        return {
            name: CheckList(name, str(entry["about"]), tuple(map(str, entry["checks"])))
            for name, entry in content.items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"check lists {file} can't be read: {error}") from None
