"""Projection (E10): the simulator's word on this phase, given before the phase is measured; and on the next one."""

from __future__ import annotations

from ryzen_mpi.cluster.phases import PHASES, Phase
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured

PROFILE = "scaling_benchmark"
LAUNCHES, ROUNDS, STEPS = 4, 6, 3


@check("projection", "E10", "predicts this phase from 1 and 2 ranks, then measures it", "driver", 7200, least_ranks=3)
def projection(context: Context) -> Findings:
    """Option: `launches`. Local: starts ranks itself."""
    from ryzen_mpi.scaling import trial
    from ryzen_mpi.scaling.calibrate import calibrate
    from ryzen_mpi.scaling.request import Request

    assert context.nodes is not None
    launches, ranks = context.count("launches", LAUNCHES), context.ranks
    per_node = -(-ranks // context.nodes.count)
    turns = {"rounds": ROUNDS, "steps": STEPS}
    calibration = calibrate(
        PROFILE,
        context.overrides,
        context.folder,
        per_node=per_node,
        launches=launches,
        nodes=context.nodes,
        tell=context.tell,
        **turns,
    )
    calibration.write(context.folder / "calibration.json")
    following = next_phase(context.phase)
    counts = [ranks] + ([following.ranks] if following else [])
    modes = {"weak": context.overrides}
    rows = trial.predicted(calibration, PROFILE, modes, counts, per_node)
    trial.write_down(rows, context.folder / "predicted.json")
    threads, folder = calibration.threads, str(context.folder)
    request = Request(PROFILE, context.overrides, threads, **turns, parts=(), shares=(), folder=folder, answer="")
    for line in trial.measure(rows[:1], request, context.nodes, lambda count: per_node, launches):
        context.tell(line)
    row = trial.compared(rows[0])
    figures = [
        Measured("error", abs(row["error"]), "1", launches, why=f"of the throughput of {ranks} ranks, weak scaling"),
        Measured("within_band", float(row["within"]), "1", launches, why="1: the median lies in the 95 % band"),
        _band("predicted_throughput", row, launches, "of this phase, before it was measured"),
    ]
    if following:
        figures.append(_band("next_throughput", rows[1], launches, f"of phase {following.name}, projected"))
    told = f"predicted {row['predicted']['value']:.4g}, measured {row['measured']:.4g} samples/s"
    return Findings(figures, evidence=(told, *row["notes"]), details={"rows": [row, *rows[1:]]})


def next_phase(phase: Phase) -> Phase | None:
    """The phase after this one, None after the last. Pure."""
    names = list(PHASES)
    place = names.index(phase.name) + 1
    return PHASES[names[place]] if place < len(names) else None


def _band(name: str, row: dict, launches: int, why: str) -> Measured:
    found = row["predicted"]
    return Measured(name, found["value"], found["unit"], launches, found["low"], found["high"], why=why)
