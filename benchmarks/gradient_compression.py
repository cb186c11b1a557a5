"""Step times with gradients compressed between two hosts, on networks of different speed, and where it begins to pay.

    python benchmarks/gradient_compression.py [--mbit 50 200 1000] [--stage 0 1 2] [--save] [--plot FILE.png]

Needs the lab (tests/lab/README.md): two hosts on this machine, the network between them limited both ways. In each job
all compressions train the same model on the same samples and alternate, in the precision that the processor is
quickest in (uncompressed gradients travel in float32 either way); a step's time is that of its slowest rank. The ratio
is that of uncompressed to compressed step time, median over rounds with its 95 % interval. Break-even is the bandwidth
where it is 1, by interpolation between the bandwidths measured: below it, compression makes a step shorter.
It says nothing of what is learnt in a step; tests/mpi/ranks/test_compressed_training.py does.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import common
import limited

REPO = Path(__file__).parents[1]
SIDES = ("none", "bfloat16", "float16", "powersgd", "topk")
LIMIT_S = 1800.0
MODEL = (
    *("data.source=random", "model.vocab_size=2048", "model.embedding_dim=256", "model.num_heads=4"),
    *("model.num_layers=2", "model.feed_forward_dim=1024", "model.seq_length=64", "training.batch_size=4"),
    *("training.total_epochs=1000000", "hardware.dtype=auto", "distributed.timeout_s=60"),
)
PROGRAM = """\
exec {repo}/env/run mpirun python {repo}/benchmarks/gradient_compression.py --inside {result} {words}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=int, nargs="+", default=[50, 200, 1000], help="bandwidths in Mbit/s")
    parser.add_argument("--stage", type=int, nargs="+", default=[0], choices=[0, 1, 2], help="hardware.zero_stage")
    parser.add_argument("--ranks-per-node", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8, help="alternations of the sides")
    parser.add_argument("--steps", type=int, default=3, help="steps of a side in a round")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--plot", metavar="FILE", help="draw it")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)  # the job's part, on every rank
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    return parser.parse_intermixed_args()


# -- on the ranks -----------------------------------------------------------------------------------------------------


def inside(options: argparse.Namespace) -> None:
    """Measures all sides at one stage; rank 0 writes the figures. Collective."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world = discover()
    settings = load_settings("default", [*MODEL, *options.overrides])
    bind_ranks(world, settings)
    import torch

    from ryzen_mpi.comm.rendezvous import process_group

    torch.set_num_threads(1)
    with process_group(world, settings.distributed):
        figures = measure(world, options)
        if world.is_leader:
            Path(options.inside).write_text(json.dumps(figures))
    world.exchange.close()


def measure(world, options: argparse.Namespace) -> dict:
    """Step times and bytes of every side, and how they compare with no compression. Collective."""
    import numpy as np
    import torch.distributed as dist
    from training import alternate, slowest

    from ryzen_mpi.data.choose import open_source
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.step import TrainingStep

    steps, outcomes, sides = {}, {}, {}
    for name in SIDES:
        words = [*MODEL, f"hardware.zero_stage={options.stage[0]}", f"distributed.compression={name}"]
        settings = load_settings("default", [*words, *options.overrides])
        batch = settings.training.batch_size * world.size
        steps[name] = TrainingStep(settings, open_source(settings, None), world.rank, world.size, batch)
        sides[name] = lambda name=name: outcomes.update({name: steps[name].run()})
    seconds = slowest(alternate(sides, options.rounds, options.steps, dist.barrier), world)
    figures: dict = {"nodes": world.nodes, "ranks": world.size, "dtype": settings.hardware.dtype}
    figures["parameters"] = sum(place.shape.numel() for place in steps["none"].strategy.layout.places)
    for name in SIDES:
        figures[name] = {
            "step_s": float(np.median(seconds[name])),
            "sent_bytes": float(outcomes[name].table.sent_bytes.sum()),
            "compression_ratio": outcomes[name].compression_ratio,
            "faster_than_none": common.ratio(seconds["none"], seconds[name], options.rounds),
        }
    return figures


# -- outside of the lab -----------------------------------------------------------------------------------------------


def in_lab(options: argparse.Namespace) -> dict:
    """The figures of every stage and bandwidth."""
    found: dict = {}
    with limited.start_lab() as lab:
        for stage in options.stage:
            rows = found[f"stage {stage}"] = {}
            for mbit in options.mbit:
                rows[str(mbit)] = job(lab, options, stage, mbit)
                show(stage, mbit, rows[str(mbit)])
    return found


def job(lab, options: argparse.Namespace, stage: int, mbit: int) -> dict:
    """Runs `inside` on node1 and node2. SystemExit with what it printed where it fails."""
    result = lab.shared / "compression.json"
    counts = f"--stage {stage} --rounds {options.rounds} --steps {options.steps}"
    program = PROGRAM.format(repo=REPO, result=result, words=" ".join([counts, *options.overrides]))
    figures = json.loads(limited.run_job(lab, mbit, program, result, LIMIT_S, 2, options.ranks_per_node))
    assert figures["nodes"] == 2, figures
    return figures


def break_even(ratios: dict[float, float]) -> tuple[float | None, str]:
    """Mbit/s where the ratio falls to 1, and in words; None where that is not between the bandwidths of `ratios`.

    By interpolation of the logarithms of both.
    """
    points = sorted(ratios.items())
    if points[0][1] <= 1:
        return None, f"below {points[0][0]:g} Mbit/s, if anywhere"
    for (low, before), (high, after) in zip(points, points[1:], strict=False):
        if after <= 1:
            share = math.log(before) / (math.log(before) - math.log(after))
            found = low * (high / low) ** share
            return found, f"{found:.0f} Mbit/s"
    return None, f"above {points[-1][0]:g} Mbit/s"


def show(stage: int, mbit: int, figures: dict) -> None:
    print(f"stage {stage}, {mbit} Mbit/s, {figures['parameters'] / 1e6:.1f} million parameters")
    for name in SIDES:
        row, ratio = figures[name], figures[name]["faster_than_none"]
        print(
            f"  {name:9} {1e3 * row['step_s']:8.1f} ms a step, {row['sent_bytes'] / 1e6:7.2f} MB sent "
            f"(a {row['compression_ratio']:.1f}th), {ratio['ratio']:.2f} times as fast as none "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})",
            flush=True,
        )


def plot(found: dict, path: str) -> None:
    """Times as fast as none over bandwidth, a panel a stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False, sharey=True)
    for panel, (stage, rows) in zip(panels[0], found.items(), strict=True):
        for name in SIDES[1:]:
            points = sorted((int(mbit), row[name]["faster_than_none"]) for mbit, row in rows.items() if mbit.isdigit())
            middle = [ratio["ratio"] for _, ratio in points]
            errors = [[abs(r["ratio"] - r[end]) for _, r in points] for end in ("low", "high")]
            panel.errorbar([mbit for mbit, _ in points], middle, yerr=errors, label=name, marker="o", capsize=3)
        panel.axhline(1, color="gray", linewidth=1)
        panel.set(xscale="log", yscale="log", title=stage, xlabel="Mbit/s between nodes")
    panels[0][0].set_ylabel("times as fast as uncompressed")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    options = arguments()
    if options.inside:
        inside(options)
        return
    found = in_lab(options)
    for stage, rows in found.items():
        break_evens = {}
        for name in SIDES[1:]:
            ratios = {float(mbit): row[name]["faster_than_none"]["ratio"] for mbit, row in rows.items()}
            break_evens[name], words = break_even(ratios)
            print(f"{stage}, {name}: a step is as long as uncompressed at {words}")
        rows["break_even_mbit"] = break_evens
    if options.plot:
        plot(found, options.plot)
    if options.save:
        print(f"kept in {common.save('compression', found).relative_to(REPO)}")


if __name__ == "__main__":
    main()
