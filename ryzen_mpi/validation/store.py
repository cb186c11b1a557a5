"""A results folder: every result of a campaign as it was made, sealed; nothing in it is ever written over.

campaign.json              identity, phase, when it began
results/0007-gloo.json     one sealed result a check and time it was run
work/gloo/                 the check's own folder
metrics.h5, junit.xml      the same figures for other readers, made anew from the results after every check
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Held, hold, write_atomic
from ryzen_mpi.validation.result import Damaged, Result, seal, unseal

MOST_BYTES = 64 << 20
"""A result larger than this is none of ours."""
_NAME = re.compile(r"(\d{4,})-([a-z0-9_]+)\.json")


@dataclass(frozen=True)
class Campaign:
    """A results folder; `identity` keeps results of another one out."""

    path: Path
    identity: str
    phase: str

    @property
    def results(self) -> Path:
        return self.path / "results"

    def work(self, check: str) -> Path:
        """The folder of a check, made."""
        folder = self.path / "work" / check
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self) -> int:
        """Keeps the folder for this process until it ends. Raises UserError."""
        try:
            return hold(self.path / ".lock")
        except Held as held:
            raise UserError(f"results folder {self.path} is in use by {held.holder}", "wait, or take another") from None
        except OSError as error:
            raise UserError(f"results folder {self.path} can't be locked: {error.strerror}") from None

    def next_number(self) -> int:
        """One more than the newest result's."""
        numbers = [int(match[1]) for path in self.results.glob("*.json") if (match := _NAME.fullmatch(path.name))]
        return max(numbers, default=0) + 1

    def add(self, result: Result) -> Path:
        """Keeps a result; on the disk when this returns. Raises UserError."""
        path = self.results / f"{result.number:04d}-{result.check}.json"
        try:
            write_atomic(path, json.dumps(seal(result), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror}", "check the space on its disk") from None
        return path

    def read(self) -> tuple[list[Result], list[str]]:
        """All results in the order of their numbers, and what is wrong with those that can't be read. Local."""
        found, damaged = [], []
        for path in sorted(self.results.glob("*.json")):
            try:
                found.append(_read(path))
            except (Damaged, OSError, ValueError) as error:
                damaged.append(f"{path.name}: {error}")
        return sorted(found, key=lambda result: result.number), damaged


def _read(path: Path) -> Result:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise Damaged("it is not named as a result is")
    if path.stat().st_size > MOST_BYTES:
        raise Damaged("it is larger than any result")
    result = unseal(json.loads(path.read_text()))
    if (result.number, result.check) != (int(match[1]), match[2]):
        raise Damaged(f"it holds result {result.number} of {result.check}")
    return result


def default_path(phase_name: str) -> Path:
    """Where the results of a phase are kept: runs/validation-2a."""
    return Path("runs") / f"validation-{phase(phase_name).name}"


def create(path: Path, phase_name: str) -> Campaign:
    """The results folder at `path`, made where there is none. Local. Raises UserError."""
    if (path / "campaign.json").exists():
        campaign = open_campaign(path)
        if campaign.phase != phase_name:
            raise UserError(
                f"{path} holds results of phase {campaign.phase}, not {phase_name}",
                "take another folder with --out DIR",
            )
        return campaign
    content = {"identity": uuid.uuid4().hex, "phase": phase_name, "began": time.time()}
    try:
        (path / "results").mkdir(parents=True, exist_ok=True)
        write_atomic(path / "campaign.json", json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"results folder {path} can't be written: {error.strerror}", "choose another with --out"
        ) from None
    return Campaign(path, content["identity"], phase_name)


def open_campaign(path: Path) -> Campaign:
    """The results folder at `path`. Local. Raises UserError where it is none."""
    try:
        content = json.loads((path / "campaign.json").read_text())
        return Campaign(path, str(content["identity"]), phase(str(content["phase"])).name)
    except FileNotFoundError:
        raise UserError(f"{path} is no results folder", "ryzen-mpi validate PHASE makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'campaign.json'} is damaged ({error})", "run the checks into a new folder") from None


def export(campaign: Campaign, results: Sequence[Result]) -> None:
    """metrics.h5 of the folder, made anew: figures by check and time, with units. Local. Raises UserError."""
    import h5py
    import numpy as np

    aside = campaign.path / ".metrics.h5.partial"
    try:
        with h5py.File(aside, "w") as file:
            file.attrs["campaign"], file.attrs["phase"] = campaign.identity, campaign.phase
            for result in results:
                group = file.create_group(f"{result.check}/{result.number:04d}")
                group.attrs["status"], group.attrs["began"] = result.status, result.began
                group.attrs["ended"] = result.ended
                for figure in result.findings.figures:
                    value = np.nan if figure.value is None else figure.value
                    dataset = group.create_dataset(figure.name, data=np.float64(value))
                    ends = {name: end for name, end in (("low", figure.low), ("high", figure.high)) if end is not None}
                    dataset.attrs.update(
                        {"units": figure.unit, "n": figure.n, "description": figure.why or figure.name, **ends}
                    )
                    if figure.samples:
                        group.create_dataset(f"{figure.name}_samples", data=np.asarray(figure.samples, np.float64))
        aside.replace(campaign.path / "metrics.h5")
    except OSError as error:
        raise UserError(f"{campaign.path / 'metrics.h5'} can't be written: {error}", "check its disk") from None
