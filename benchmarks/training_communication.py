"""What communication costs a training step over gloo, over mpi, and in the arena.

    python benchmarks/training_communication.py [--ranks 2] [--model scaling_benchmark|50m] [--save]

Starts itself under mpirun. The three sides train the same model on the same samples and alternate in one run. The share
is the time a rank is blocked in reduction and agreement, waiting for slower ranks included, over the time of its step;
the mean over ranks, and the median over rounds with its 95 % interval.
"""

from __future__ import annotations

import argparse
import time

import common
from training import alternate, slowest

MODELS = {
    "scaling_benchmark": [],
    "50m": [
        "model.embedding_dim=640",
        "model.num_heads=10",
        "model.num_layers=8",
        "model.feed_forward_dim=2560",
        "model.vocab_size=16384",
        "training.batch_size=4",
    ],
}
SIDES = {"gloo": False, "mpi": False, "arena": True}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=12, help="alternations of the sides")
    parser.add_argument("--steps", type=int, default=4, help="steps of a side in a round")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    return parser.parse_args()


def measure(world, model: str, groups: dict, options) -> dict:
    """Seconds a step and communication's share for every side, and what the sides gain. Collective."""
    import numpy as np
    import torch.distributed as dist

    from ryzen_mpi.data.choose import open_source
    from ryzen_mpi.figures import median
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.step import TrainingStep

    words = [*MODELS[model], "training.total_epochs=1000000", f"hardware.dtype={options.dtype}"]
    blocked: dict[str, list[float]] = {name: [] for name in SIDES}
    sides, parameters = {}, 0
    for name, arena in SIDES.items():
        settings = load_settings("scaling_benchmark", [*words, f"distributed.arena={str(arena).lower()}"])
        batch = settings.training.batch_size * world.size
        step = TrainingStep(settings, open_source(settings, None), world.rank, world.size, batch, group=groups[name])
        parameters = sum(place.shape.numel() for place in step.flat.places)
        sides[name] = lambda step=step, into=blocked[name]: into.append(step.run().communication_s)
    seconds = slowest(alternate(sides, options.rounds, options.steps, dist.barrier), world)
    warm = 2 * options.steps
    mean_blocked = {
        name: np.mean([each[name][warm:] for each in world.exchange.allgather(blocked)], axis=0) for name in SIDES
    }
    figures: dict = {"parameters": parameters, "global_batch": batch}
    for name in SIDES:
        shares = (mean_blocked[name] / np.array(seconds[name])).reshape(options.rounds, -1)
        share = median(np.median(shares, axis=1))
        figures[f"{name}_share"] = {"value": share.value, "low": share.low, "high": share.high}
        figures[f"{name}_step_s"] = float(np.median(seconds[name]))
        figures[f"{name}_communication_s"] = float(np.median(mean_blocked[name]))
    for name in ("mpi", "arena"):
        figures[f"gloo_step_over_{name}_step"] = common.ratio(seconds["gloo"], seconds[name], options.rounds)
    return figures


def main() -> None:
    options = arguments()
    common.relaunch(options.ranks)
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world = discover()
    bind_ranks(world, load_settings("scaling_benchmark"))
    import torch
    import torch.distributed as dist

    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.comm.rendezvous import process_group

    keep_freed_memory()
    torch.set_num_threads(1)
    result: dict = {"ranks": world.size, "threads": 1, "dtype": options.dtype}
    with process_group(world, load_settings("scaling_benchmark").distributed):
        ours = dist.new_group(backend="ryzen")
        groups = {"gloo": dist.group.WORLD, "mpi": ours, "arena": ours}
        for model in options.model:
            began, waited = time.perf_counter(), common.disturbance()
            result[model] = measure(world, model, groups, options)
            share = (common.disturbance() - waited) / (time.perf_counter() - began)
            result[model]["waited_for_a_core"] = max(world.exchange.allgather(share))
            if world.is_leader:
                show(model, result[model])
    if world.is_leader and options.save:
        path = common.save(f"training-communication-{world.size}-ranks", result)
        print(f"kept in {path.relative_to(common.RESULTS.parent.parent)}")
    world.exchange.close()


def show(model: str, figures: dict) -> None:
    print(f"{model}: {figures['parameters'] / 1e6:.1f} million parameters")
    for name in SIDES:
        share = figures[f"{name}_share"]
        print(
            f"  {name:6} {100 * share['value']:5.1f} % of the step in communication "
            f"({100 * share['low']:.1f} to {100 * share['high']:.1f}), "
            f"{1e3 * figures[f'{name}_communication_s']:.2f} of {1e3 * figures[f'{name}_step_s']:.1f} ms"
        )
    for name in ("mpi", "arena"):
        ratio = figures[f"gloo_step_over_{name}_step"]
        print(f"  gloo / {name:6} {ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})")
    print(f"  waited for a core {100 * figures['waited_for_a_core']:.1f} %", flush=True)


if __name__ == "__main__":
    main()
