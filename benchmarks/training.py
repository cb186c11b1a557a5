"""Training speed: against a plain PyTorch script, and of two ranks against one.

    python benchmarks/training.py --peer plain-ddp        # ratio of samples a second, bfloat16 and float32
    python benchmarks/training.py --scaling               # 2 ranks against 1 at the same work a rank, and what limits
    python benchmarks/training.py --metrics               # what recording and watching every step costs

Starts itself under mpirun. Both sides alternate in one run, on one core a rank; medians with 95 % intervals.
Runs on an idle machine only: the share of time the ranks waited for a core is part of the result.
"""

from __future__ import annotations

import argparse
import shutil
import time

import common


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--peer", choices=["plain-ddp"], help="what to measure against")
    what.add_argument("--scaling", action="store_true", help="measure 2 ranks against 1")
    what.add_argument("--metrics", action="store_true", help="measure the cost of all sinks and of the monitor")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="alternations of the sides")
    parser.add_argument("--steps", type=int, default=6, help="steps of a side in a round")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    parser.add_argument("--profile", default="scaling_benchmark")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    return parser.parse_args()


def alternate(sides: dict, rounds: int, steps: int, barrier) -> dict[str, list[float]]:
    """Seconds of every step of every side, warm-up of two rounds dropped. Collective."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, run in sides.items():
            barrier()
            for _ in range(steps):
                began = time.perf_counter()
                run()
                if number >= 2:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def slowest(seconds: dict[str, list[float]], world) -> dict[str, list[float]]:
    """For every step the time of its slowest rank. Collective."""
    everyone = world.exchange.allgather(seconds)
    return {name: [max(column) for column in zip(*(e[name] for e in everyone), strict=True)] for name in seconds}


def against_peer(world, settings, source, options) -> dict:
    """Ours and the peer's samples/s and their ratio. Collective."""
    import torch.distributed as dist
    from peer_sides.plain_ddp import PlainStep

    from ryzen_mpi.training.step import TrainingStep

    batch = settings.training.batch_size * world.size
    ours = TrainingStep(settings, source, world.rank, world.size, batch)
    peer = PlainStep(settings, source, dist.new_group(backend="gloo"))  # the default group may be our own backend
    communication: list[float] = []
    sides = {"ours": lambda: communication.append(ours.run().communication_s), "peer": peer.run}
    seconds = slowest(alternate(sides, options.rounds, options.steps, dist.barrier), world)
    return {
        "ours_samples_per_s": common.rate(seconds["ours"], batch),
        "peer_samples_per_s": common.rate(seconds["peer"], batch),
        "times_as_fast": common.ratio(seconds["peer"], seconds["ours"], options.rounds),
        "ours_communication_share": sum(communication[2 * options.steps :]) / sum(seconds["ours"]),
    }


def against_one_rank(world, settings, source, options) -> dict:
    """Throughput a rank of all ranks together, against rank 0 alone, split into what limits it. Collective.

    `alone`: rank 0 trains, the others wait without spinning. `beside`: all train, each for itself, without a word
    between them: what is lost then is memory bandwidth, cache and clock. `together`: one data-parallel step of all.
    """
    import torch.distributed as dist

    from ryzen_mpi.training.step import TrainingStep

    batch = settings.training.batch_size
    solo_groups = [dist.new_group([rank]) for rank in range(world.size)]
    solo = TrainingStep(settings, source, 0, 1, batch, group=solo_groups[world.rank])
    all_ranks = TrainingStep(settings, source, world.rank, world.size, batch * world.size)
    communication: list[float] = []
    sides = {
        "alone": solo.run if world.is_leader else lambda: None,
        "beside": solo.run,
        "together": lambda: communication.append(all_ranks.run().communication_s),
    }
    seconds = slowest(alternate(sides, options.rounds, options.steps, dist.barrier), world)
    figures = {f"{name}_samples_per_s_a_rank": common.rate(values, batch) for name, values in seconds.items()}
    figures["efficiency"] = common.ratio(seconds["alone"], seconds["together"], options.rounds)
    figures["kept_beside_each_other"] = common.ratio(seconds["alone"], seconds["beside"], options.rounds)
    figures["communication_s_a_step"] = sum(communication[2 * options.steps :]) / len(seconds["together"])
    figures["kept_by_communication"] = common.ratio(seconds["beside"], seconds["together"], options.rounds)
    return figures


def against_nothing_watched(world, settings, source, options) -> dict:
    """A step with all that is recorded and watched, against the bare step. Collective.

    Every sink is open: metrics.h5, the event log, the ranks' logs, metrics.prom and Prometheus' port, TensorBoard; all
    rules look, weights are compared and health checks made when they are due. The gauges' thread looks all the time,
    at the cost of both sides: what a look takes of a core is told apart.
    """
    import tempfile
    from contextlib import closing
    from pathlib import Path

    import torch.distributed as dist

    from ryzen_mpi.beacon import open_beacon
    from ryzen_mpi.cluster.gauges import Gauges
    from ryzen_mpi.console import Console
    from ryzen_mpi.health.watch import watch_over
    from ryzen_mpi.rundir import RunDirectory
    from ryzen_mpi.training.step import TrainingStep
    from ryzen_mpi.training.tools import open_tools

    batch = settings.training.batch_size * world.size
    step, bare = (TrainingStep(settings, source, world.rank, world.size, batch) for _ in range(2))
    bare.own_norm.remove()
    folder = tempfile.mkdtemp() if world.is_leader else ""
    run = RunDirectory(Path(world.exchange.broadcast(folder)))
    with closing(Gauges(settings.monitor.sample_s)) as gauges:
        watch = watch_over(world, step, gauges, open_beacon())
        tools = open_tools(world, settings, run, Console(world.is_leader), step, "none", "benchmark", watch.figures)
        recording: list[tuple[float, float]] = []

        def watched() -> None:
            outcome, began, cpu = step.run(), time.perf_counter(), time.thread_time()
            tools.recorder.step(outcome, batch)
            watch.after(tools, saving=False)
            recording.append((time.perf_counter() - began, time.thread_time() - cpu))

        sides = {"watched": watched, "bare": bare.run}
        began = time.perf_counter()
        seconds = slowest(alternate(sides, options.rounds, options.steps, dist.barrier), world)
        whole = time.perf_counter() - began
        tools.close_records()
        look_s = gauges.cost_s
    shutil.rmtree(folder, ignore_errors=True)
    # the record of a step is part of that step's own time on rank 0, and of the next step's on the others
    figures = {f"{name}_samples_per_s": common.rate(values, batch) for name, values in seconds.items()}
    figures["watched_over_bare"] = common.ratio(seconds["watched"], seconds["bare"], options.rounds)
    figures |= shares(recording[2 * options.steps :], sum(seconds["watched"]), watch.checks.spent_s, whole)
    figures["share_of_a_core_in_gauges"] = max(world.exchange.allgather(look_s / settings.monitor.sample_s))
    return figures | {"acts": float(watch.monitor.acts_taken)}


def shares(recording: list[tuple[float, float]], watched_s: float, checks_s: float, whole_s: float) -> dict[str, float]:
    """What lies outside of the watched steps, as shares of their time; `recording`: seconds of wall and of CPU. Pure.

    Health checks are made by the clock: all of them fall on the watched half, and are told of the whole time.
    """
    outside, of_cpu = (sum(column) for column in zip(*recording, strict=True))
    return {
        "share_outside_the_step": outside / watched_s,
        "share_of_cpu_outside_the_step": of_cpu / watched_s,
        "share_in_health_checks": checks_s / whole_s,
        "share_in_recorder_and_rules": (outside - checks_s) / watched_s,
    }


def main() -> None:
    options = arguments()
    common.relaunch(options.ranks)
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world = discover()
    overrides = [*options.overrides, "training.total_epochs=1000000"]
    place = bind_ranks(world, load_settings(options.profile, overrides))
    import torch

    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.data.choose import open_source

    keep_freed_memory()  # for both sides: they share the process
    torch.set_num_threads(1)
    name, measure = "scaling", against_one_rank
    if options.peer:
        name, measure = options.peer, against_peer
    elif options.metrics:
        name, measure = "metrics", against_nothing_watched
    result: dict = {"profile": options.profile, "overrides": options.overrides, "ranks": world.size, "threads": 1}
    with process_group(world, load_settings(options.profile).distributed):
        for dtype in options.dtype:
            settings = load_settings(options.profile, [*overrides, f"hardware.dtype={dtype}"])
            began, waited = time.perf_counter(), common.disturbance()
            result[dtype] = measure(world, settings, open_source(settings, None), options)
            share = (common.disturbance() - waited) / (time.perf_counter() - began)
            result[dtype]["waited_for_a_core"] = max(world.exchange.allgather(share))
            if world.is_leader:
                show(dtype, result[dtype])
    if world.is_leader:
        for warning in place.warnings:
            print(f"warning: {warning}")
        if options.save:
            print(f"kept in {common.save(f'training-{name}', result).relative_to(common.RESULTS.parent.parent)}")
    world.exchange.close()


def show(dtype: str, figures: dict) -> None:
    print(dtype)
    for name, figure in figures.items():
        if isinstance(figure, dict):
            value = figure.get("value", figure.get("ratio"))
            print(f"  {name:36} {value:9.3f}  ({figure['low']:.3f} to {figure['high']:.3f})")
        else:
            print(f"  {name:36} {figure:9.3f}")
    print(flush=True)


if __name__ == "__main__":
    main()
