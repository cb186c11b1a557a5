"""Predictions made before the run, from launches of 1 and 2 ranks, against measurements at 3 and 4 ranks.

    python benchmarks/predictions.py [--launches 4] [--rounds 6] [--save]
    python benchmarks/predictions.py --lab [--mbit 50 200 1000] [--save]       # needs tests/lab/README.md

Every prediction is written down before the launches it is about. A case is calibrated, predicted and measured before
the next one begins. `error` is predicted over measured throughput less 1, the measured one being the median of the
launches; `within` tells whether that lies in the 95 % band of one launch. Beside every launch that is measured, one of
a single rank tells the machine's pace against that of the calibration, which changes where others use it as well:
`error_at_pace` is what the model itself is off by. On a machine with fewer cores than ranks the ranks take turns on
cores, which the calibration measures with two ranks on one core: the figures test the model, they say nothing about
scaling. In the lab four hosts share the cores of this machine, one rank each, and the network of the first is limited
both ways. Run it on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import common
import limited

REPO = Path(__file__).parents[1]
LIMIT_S = 7200.0
CASES = {
    "float32": ("hardware.dtype=float32",),
    "bfloat16": ("hardware.dtype=bfloat16",),
    "wide": (
        "hardware.dtype=float32",
        "model.embedding_dim=512",
        "model.feed_forward_dim=2048",
        "training.batch_size=8",
    ),
}
RANKS = (3, 4)
TOTAL = 12
"""Global batch of the strong cases, in eighths of a micro-batch: 3 and 4 divide it, into less than a micro-batch."""
PROGRAM = "exec {repo}/env/run python {repo}/benchmarks/predictions.py --inside {result} {words}\n"
IN_LAB = ("hardware.bind=none", "hardware.num_threads=1", "distributed.timeout_s=120")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=4, help="of each kind, to calibrate and to measure")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side in a launch")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all, in the lab the first")
    parser.add_argument("--profile", default="scaling_benchmark")
    parser.add_argument("--lab", action="store_true", help="on the four hosts of the test lab, a rank each")
    parser.add_argument("--mbit", type=int, nargs="+", default=[50, 200, 1000], help="bandwidths of the lab")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--keep", metavar="DIR", help="keep calibrations and launches there (not in /tmp)")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)  # the lab job's part
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    return parser.parse_intermixed_args()


def case(name: str, options: argparse.Namespace, folder: Path, nodes: Any, in_lab: bool) -> list[dict[str, Any]]:
    """Calibrates, predicts and then measures one case; a row for every number of ranks and mode."""
    from ryzen_mpi.scaling import trial
    from ryzen_mpi.scaling.calibrate import calibrate
    from ryzen_mpi.scaling.request import Request
    from ryzen_mpi.settings import load_settings

    words = (*CASES[name], *(IN_LAB if in_lab else ()), *options.overrides)
    per_node = 1 if in_lab else max(RANKS)
    turns = {"rounds": options.rounds, "steps": options.steps}

    def tell(text: str) -> None:
        print(f"  {name}: {text}", flush=True)

    settings = load_settings(options.profile, words)
    total = TOTAL * max(1, settings.training.batch_size // 8)
    shares = tuple(total // ranks for ranks in RANKS)
    calibration = calibrate(
        options.profile,
        words,
        folder,
        per_node=per_node,
        launches=options.launches,
        nodes=nodes,
        shares=shares,
        tell=tell,
        **turns,
    )
    if options.keep:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
        calibration.write(Path(options.keep) / f"{name}-calibration.json")
    modes = {"weak": words, "strong": (*words, f"training.global_batch={total}")}
    rows = trial.predicted(calibration, options.profile, modes, RANKS, per_node)
    trial.write_down(rows, folder / f"predicted-{name}.json")
    request = Request(
        options.profile, words, calibration.threads, **turns, parts=(), shares=(), folder=str(folder), answer=""
    )
    batch, paces = settings.training.batch_size, []
    for line in trial.measure(rows, request, nodes, lambda ranks: 1 if in_lab else ranks, options.launches):
        tell(line)
        paces.append(trial.pace(calibration, request, nodes, batch))
    if options.keep:
        trial.write_down(rows, Path(options.keep) / f"{name}-rows.json")
    return [judged(name, trial.compared(row), median(paces)) for row in rows]


def judged(name: str, row: dict[str, Any], pace: float) -> dict[str, Any]:
    """The row with its error were the machine as it was when calibrated. Pure."""
    error = row["predicted"]["value"] * pace / row["measured"] - 1
    return {"case": name, **row, "pace": pace, "error_at_pace": error}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all predictions: how many, the median and largest error, and the share within the band."""
    errors, at_pace = ([abs(row[key]) for row in rows] for key in ("error", "error_at_pace"))
    within = sum(row["within"] for row in rows) / len(rows)
    return {
        "n": len(rows),
        "median_error": median(errors),
        "largest_error": max(errors),
        "median_error_at_pace": median(at_pace),
        "within_band": within,
    }


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        band = row["predicted"]
        said = f"{band['value']:8.1f} samples/s ({band['low']:.1f} to {band['high']:.1f})"
        error, at_pace = 100 * row["error"], 100 * row["error_at_pace"]
        print(
            f"{row.get('mbit', ''):>5} {row['case']:9} {row['mode']:6} {row['ranks']} ranks: predicted {said}, did "
            f"{row['measured']:8.1f}, error {error:+6.1f} % ({at_pace:+.1f} % at the pace of a rank meanwhile), "
            f"{'within' if row['within'] else 'OUTSIDE'}"
        )
    found = summary(rows)
    errors = [100 * found[name] for name in ("median_error", "largest_error", "median_error_at_pace")]
    print(
        f"{found['n']} predictions: median error {errors[0]:.1f} %, largest {errors[1]:.1f} %; median at the pace of a "
        f"rank meanwhile {errors[2]:.1f} %; {100 * found['within_band']:.0f} % within the band",
        flush=True,
    )


def inside(options: argparse.Namespace) -> None:
    """The lab job's part, on its first host: all cases at the bandwidth there is."""
    from ryzen_mpi.scaling.launch import find_nodes

    nodes = find_nodes()
    assert nodes.count == 4, nodes
    with tempfile.TemporaryDirectory(dir=Path(options.inside).parent) as folder:
        rows = [row for name in options.case for row in case(name, options, Path(folder), nodes, in_lab=True)]
    Path(options.inside).write_text(json.dumps(rows))


def in_lab(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases at every bandwidth of the first host's network. SystemExit with what the job printed where it fails."""
    rows = []
    counts = f"--launches {options.launches} --rounds {options.rounds} --steps {options.steps} --profile "
    words = " ".join([counts + options.profile, "--case", *options.case, "--", *options.overrides])
    with limited.start_lab() as lab:
        result = lab.shared / "predictions.json"
        for mbit in options.mbit:
            kept = f"--keep {shlex.quote(str(Path(options.keep).resolve() / str(mbit)))} " if options.keep else ""
            program = PROGRAM.format(repo=REPO, result=result, words=kept + words)
            measured = json.loads(limited.run_job(lab, mbit, program, result, LIMIT_S))
            rows += [row | {"mbit": mbit} for row in measured]
            show(rows)
    return rows


def main() -> None:
    options = arguments()
    options.case = options.case or list(CASES)[: 1 if options.lab else None]
    if options.inside:
        inside(options)
        return
    if options.lab:
        rows = in_lab(options)
    else:
        from ryzen_mpi.scaling.launch import Nodes

        with tempfile.TemporaryDirectory() as folder:
            rows = [row for name in options.case for row in case(name, options, Path(folder), Nodes(), in_lab=False)]
    show(rows)
    if options.save:
        name = "predictions-lab" if options.lab else "predictions"
        kept = common.save(name, {"profile": options.profile, **summary(rows), "rows": rows})
        print(f"kept in {kept.relative_to(REPO)}")


if __name__ == "__main__":
    main()
