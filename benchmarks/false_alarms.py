"""How often the monitor's rules speak of healthy runs, and how soon of planted faults.

    python benchmarks/false_alarms.py [RUN...] [--runs 200] [--steps 2000] [--planted] [--save]

Prints; --save keeps the figures. An evaluation is one rule looking at one step. An alarm is any act, warnings included.
The runs are made up (looks.py), and real ones: directories given as RUN, whose metrics.h5 is read into looks.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from common import save
from looks import SAVE, Scene, healthy, scenes
from planted_looks import PLANTED, Planted

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.config import Monitor
from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules import RULES, Given, make_rules
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.training.look import Look
from ryzen_mpi.validation.statistics import rate_bound

TUNED_ON = 110
"""The first made-up runs were looked at while limits were chosen; the others tell more."""
AT = 610
"""Step at which faults are planted."""


def judge(looks: Sequence[Look], save_interval: int = 0) -> tuple[list[Act], float]:
    """What the rules say of a run, and the microseconds they took a step, all together."""
    rules = make_rules(Monitor(), Given(16, (4,) * looks[0].ranks, (), save_interval))
    began = time.process_time()
    acts = [act for look in looks for rule in rules for act in rule.look(look)]
    return acts, 1e6 * (time.process_time() - began) / len(looks)


def counted(runs: Iterable[tuple[str, Sequence[Look], int]]) -> dict:
    """Evaluations and alarms by rule, over runs given as (name, looks, save interval)."""
    steps, number, alarms, cost, said = 0, 0, Counter(), [], []
    for name, looks, interval in runs:
        acts, us = judge(looks, interval)
        number, steps = number + 1, steps + len(looks)
        alarms.update(act.rule for act in acts)
        said += [f"{name}, step {act.step}: {act.rule}: {act.kind}: {act.evidence}" for act in acts]
        if looks[0].ranks == 4:
            cost.append(us)
    evaluations = steps * len(RULES)
    return {
        "runs": number,
        "steps": steps,
        "evaluations": evaluations,
        "alarms": sum(alarms.values()),
        "alarm_rate_below_95": rate_bound(sum(alarms.values()), evaluations),
        "by_rule": {
            rule: {"evaluations": steps, "alarms": alarms[rule], "alarm_rate_below_95": rate_bound(alarms[rule], steps)}
            for rule in RULES
        },
        "us_a_step_at_4_ranks": float(np.median(cost)) if cost else None,
        "said": said,
    }


def recorded(run: Path) -> list[Look]:
    """The looks at a run of which metrics.h5 was kept; what it does not tell is unknown (NaN)."""
    metrics = read_metrics(run / "metrics.h5")
    steps, ranks = metrics["training/step"], int(metrics["training/ranks"].max())
    of = {name: metrics[f"training/{name}"] for name in ("loss", "gradient_norm", "learning_rate", "wall_time_s")}
    unknown = np.full((len(steps), ranks), np.nan)
    own = metrics.get("training/rank_gradient_norm", unknown)
    sampled = {
        name: array
        for name in NAMES
        if (array := _sampled(metrics, f"rank_{name}")) is not None and array.shape[1:] == (ranks,)
    }
    at = np.searchsorted(metrics.get("samples/step", np.array([])), steps, side="right") - 1
    times, waits = metrics["training/rank_step_s"], metrics["communication/rank_communication_s"]
    return [
        Look(
            step=int(steps[n]),
            position=int(metrics["training/samples"][n - 1]) if n else 0,
            clock_s=float(of["wall_time_s"][n]),
            loss=float(of["loss"][n]),
            gradient_norm=float(of["gradient_norm"][n]),
            learning_rate=float(of["learning_rate"][n]),
            finite=np.full(ranks, float(np.isfinite(of["gradient_norm"][n]))),
            rank_loss=unknown[n],
            rank_gradient_norm=own[n],
            rank_step_s=times[n - 1] if n else unknown[n],
            rank_communication_s=waits[n - 1] if n else unknown[n],
            gauges={name: array[at[n]] for name, array in sampled.items()} if at[n] >= 0 else {},
            hosts=("node1",) * ranks,
        )
        for n in range(len(steps))
    ]


def _sampled(metrics: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    found = [array for path, array in metrics.items() if path.endswith(f"/{name}") and len(array)]
    return found[0] if found else None


def delays(fault: Planted, count: int = 20) -> dict:
    """After how many steps, and seconds, a planted fault is answered as it must be; over runs of different kinds."""
    steps, seconds, missed = [], [], 0
    for seed in range(count):
        ranks = (2, 4, 8)[seed % 3]
        scene = Scene(1000 + seed, ranks, AT + 700, step_s=(0.3, 1.0, 3.0)[seed // 3 % 3], loss_noise=0.02)
        looks = healthy(scene)
        rank = seed % ranks
        planted = fault.plant(looks, AT, rank)
        acts, _ = judge(planted, SAVE)
        answer = next((act for act in acts if act.step > AT and answers(act, fault, planted[AT], rank)), None)
        if answer is None:
            missed += 1
            continue
        steps.append(answer.step - AT - 1)
        seconds.append(planted[answer.step - 1].clock_s - planted[AT].clock_s)
    within = {"steps": fault.steps, "seconds": fault.seconds}
    figures = {"runs": count, "missed": missed, "promised": within}
    if steps:
        figures |= {"median_steps": float(np.median(steps)), "most_steps": max(steps), "most_s": round(max(seconds), 1)}
    return {"answer": f"{fault.rule}: {fault.kind}", "names": fault.names} | figures


def answers(act: Act, fault: Planted, look: Look, rank: int) -> bool:
    """Whether an act is the right one for a fault, with the right name."""
    if (act.rule, act.kind) != (fault.rule, fault.kind):
        return False
    by_node = fault.names == "node" and act.node == look.hosts[rank]
    # with two ranks, one against one, nobody is named: the replay tells
    by_rank = fault.names == "rank" and (act.rank == rank or (act.rule == "sync" and look.ranks == 2))
    return fault.names == "" or by_node or by_rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=200, help="made-up runs")
    parser.add_argument("--steps", type=int, default=2000, help="of each")
    parser.add_argument("--planted", action="store_true", help="also the delays of planted faults")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    made_up = list(scenes(asked.runs, asked.steps))
    parts = {"made_up": made_up[:TUNED_ON], "made_up_unseen": made_up[TUNED_ON:]}
    kinds = {kind: ((f"made-up run {s.seed}", healthy(s), SAVE) for s in part) for kind, part in parts.items() if part}
    if asked.run:
        kinds["recorded"] = ((run.name, recorded(run), 0) for run in asked.run)
    figures: dict = {}
    for kind, runs in kinds.items():
        found = figures[kind] = counted(runs)
        print(f"{kind}: {found['alarms']} alarms in {found['evaluations']} evaluations ({found['runs']} runs)")
        print(f"  rate below {found['alarm_rate_below_95']:.2g} an evaluation (95 %)", *found["said"][:20], sep="\n  ")
    if asked.planted:
        figures["planted"] = {name: delays(fault) for name, fault in PLANTED.items()}
        for name, found in figures["planted"].items():
            print(f"{name:24} {found}")
    if asked.save:
        print(save("false_alarms", figures))


if __name__ == "__main__":
    main()
