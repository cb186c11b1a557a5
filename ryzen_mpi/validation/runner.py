"""Runs checks one after the other, each in processes of its own with a time limit, and keeps what they found."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ryzen_mpi.cluster.phases import Phase
from ryzen_mpi.errors import EXIT_USER_ERROR, UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.scaling.launch import Ended, Nodes, command, environment, run
from ryzen_mpi.validation import store
from ryzen_mpi.validation.gate import Row, judge_figure
from ryzen_mpi.validation.junit import junit
from ryzen_mpi.validation.registry import Check
from ryzen_mpi.validation.result import Findings, Result, read_findings
from ryzen_mpi.validation.thresholds import Rules
from ryzen_mpi.validation.worker import PROGRESS, Spec


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        phase, rules: whose checks, and what their figures are shown against.
        checks: in this order.
        ranks: of the phase, or as asked for.
        nodes: where they can be started.
        overrides, options: handed to every check.
        words: of the command line, without what names checks: a check's own command is made of them.
        worker: what follows `python` to start one.
    """

    phase: Phase
    rules: Rules
    checks: Sequence[Check]
    ranks: int
    nodes: Nodes
    overrides: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    worker: tuple[str, ...] = ("-m", "ryzen_mpi.validation.worker")


def run_all(plan: Plan, campaign: store.Campaign, show: Callable[[str], object]) -> list[Result]:
    """Runs every check of the plan; each is kept as soon as it is done. Local. Raises UserError.

    `show` is given a line a check, and lines of evidence below those that do not pass.
    """
    from ryzen_mpi.validation import lines

    done = []
    for number, check in enumerate(plan.checks, start=1):
        show(lines.running(number, len(plan.checks), check))
        result = run_one(plan, check, campaign, lambda text: show(lines.progress(text)))
        campaign.add(result)
        done.append(result)
        rows = judge_rows(result, plan.rules)
        for line in lines.outcome(number, len(plan.checks), result, rows):
            show(line)
        results, _ = campaign.read()
        store.export(campaign, results)
        rows_of = {each.check: judge_rows(each, plan.rules) for each in results}
        write_atomic(campaign.path / "junit.xml", junit(plan.phase.name, results, rows_of))
        if result.status == "interrupted":
            raise KeyboardInterrupt
    return done


def judge_rows(result: Result, rules: Rules) -> list[Row]:
    """The rows of the result's figures that have thresholds. Pure."""
    if result.status != "measured":
        return []
    named = rules.thresholds.get(result.check, {})
    return [judge_figure(result.check, name, result.figure(name), rule) for name, rule in named.items()]


def run_one(plan: Plan, check: Check, campaign: store.Campaign, tell: Callable[[str], object]) -> Result:
    """One check, whatever becomes of it. Local."""
    folder = campaign.work(check.name).absolute()
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    spec = Spec(check.name, plan.phase.name, plan.ranks, str(folder), str(answer), plan.overrides, plan.options)
    began = time.time()
    reason = _cannot(plan, check)
    status, message, content = "not measurable", reason, {}
    if not reason:
        spec.write(folder / "spec.json")
        try:
            ended = _start(plan, check, folder / "spec.json", tell)
        except KeyboardInterrupt:
            status, message = "interrupted", "by the person who started it"
        else:
            status, message, content = _read(ended, answer, check, plan)
    return Result(
        check=check.name,
        phase=plan.phase.name,
        campaign=campaign.identity,
        number=campaign.next_number(),
        status=status,
        message=message,
        began=began,
        ended=time.time(),
        rerun=shlex.join(["ryzen-mpi", "validate", plan.phase.name, "--only", check.name, *plan.words]),
        conditions=_conditions(plan, content),
        findings=read_findings(content["findings"]) if content else Findings(),
    )


def _cannot(plan: Plan, check: Check) -> str:
    """Why the check can't say anything here; "" where it can."""
    if plan.ranks < check.least_ranks:
        return f"needs at least {check.least_ranks} ranks, and there are {plan.ranks}"
    if plan.nodes.count < check.least_nodes:
        return f"needs at least {check.least_nodes} nodes, and there is {plan.nodes.count}"
    return ""


def _start(plan: Plan, check: Check, spec: Path, tell: Callable[[str], object]) -> Ended:
    program = (*plan.worker, str(spec))
    ranks = {"ranks": plan.ranks, "nodes": plan.nodes.count}.get(check.where, 1)
    if check.where in ("one", "driver"):
        words = [sys.executable, *program]
    else:
        per_node = 1 if check.where == "nodes" else -(-plan.ranks // plan.nodes.count)
        words = command(ranks, program, plan.nodes, per_node)

    def hear(line: str) -> None:
        if line.startswith(PROGRESS):
            tell(line.removeprefix(PROGRESS).strip())

    return run(words, limit_s(check, plan, len(os.sched_getaffinity(0))), environment(), hear=hear)


def limit_s(check: Check, plan: Plan, cores: int) -> float:
    """Seconds the check may take on nodes of `cores` cores: ranks that share them take turns. Pure."""
    a_node = 1 if check.where in ("one", "nodes") else -(-plan.ranks // plan.nodes.count)
    return check.limit_s * max(1.0, a_node / cores) + float(plan.options.get("duration_s", 0))


def _read(ended: Ended, answer: Path, check: Check, plan: Plan) -> tuple[str, str, dict[str, Any]]:
    """(status, message, what the worker wrote)."""
    if answer.exists():  # whole or not at all; how the launch ended adds nothing
        return "measured", "", json.loads(answer.read_text())
    again = f"; again with: {shlex.join(ended.words)}"
    if ended.timed_out:
        return "timeout", f"not done after {ended.seconds:.0f} s\n{ended.tail()}", {}
    if ended.code == EXIT_USER_ERROR:
        return "failed", ended.tail(4).removeprefix("error: "), {}
    return "failed", f"exit code {ended.code}, and no answer{again}\n{ended.tail(30)}", {}


def _conditions(plan: Plan, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "ranks": plan.ranks,
        "nodes": plan.nodes.count,
        "hosts": sorted(plan.nodes.names) or [os.uname().nodename],
        "machine": content.get("machine"),
        "versions": content.get("versions"),
        "overrides": list(plan.overrides),
        "options": plan.options,
    }


def choose(names: Sequence[str], known: dict[str, Check]) -> list[Check]:
    """The checks of these names. Raises UserError."""
    from ryzen_mpi.validation.registry import find

    if not names:
        raise UserError("no check was named", "--only hardware,gloo; --list names all")
    return [known[name] if name in known else find(name) for name in dict.fromkeys(names)]
