"""Gates applied to results folders, and the walk over the phases. Local; reads, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.cluster.phases import PHASES, phase
from ryzen_mpi.errors import UserError
from ryzen_mpi.validation import store
from ryzen_mpi.validation.gate import Verdict, judge
from ryzen_mpi.validation.thresholds import Set, load_rules


@dataclass(frozen=True)
class Step:
    """One gate of the walk; `reason`: the first of its verdict's, or why there is none."""

    phase: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Walk:
    """The gates in order, up to the first that is not GO, and what follows."""

    steps: tuple[Step, ...]
    sentence: str


def judge_folder(phase_name: str, folder: Path | None, which: Set) -> Verdict:
    """The verdict on a results folder. Raises UserError where there is none, or it is of another phase."""
    found = phase(phase_name)
    campaign = store.open_campaign(folder or store.default_path(found.name))
    results, damaged = campaign.read()
    if campaign.phase != found.name:
        damaged = [*damaged, f"the folder holds results of phase {campaign.phase}"]
    return judge(results, load_rules(found.name, which), campaign.identity, damaged)


def walk(root: Path, which: Set) -> Walk:
    """The gates of all phases over the results folders `root`/validation-PHASE. Raises UserError where root is none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}", "--results DIR, which holds validation-1, validation-2a, ...")
    steps: list[Step] = []
    names = list(PHASES)
    for name in names:
        folder = root / store.default_path(name).name
        if not (folder / "campaign.json").exists():
            steps.append(Step(name, "INSUFFICIENT", f"{folder} holds no results: ryzen-mpi validate {name}"))
        else:
            verdict = judge_folder(name, folder, which)
            steps.append(Step(name, verdict.verdict, verdict.reasons[0] if verdict.reasons else ""))
        if steps[-1].verdict != "GO":
            before = [step.phase for step in steps[:-1]]
            passed = f"passed: {', '.join(before)}" if before else "no phase is passed"
            return Walk(tuple(steps), f"phase {name} stands in the way; {passed}")
    return Walk(tuple(steps), "all phases are passed: production is authorised")
