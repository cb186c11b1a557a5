"""Before the first step, in order: place the ranks, check that it fits, claim the directory, open the data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ryzen_mpi.beacon import Beacon, epoch
from ryzen_mpi.cluster.job import all_agree, leader_decides
from ryzen_mpi.cluster.placement import Placement
from ryzen_mpi.cluster.topology import read_memory
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console
from ryzen_mpi.errors import UserError
from ryzen_mpi.processor import has_bfloat16
from ryzen_mpi.rundir import RunDirectory, new_run_path
from ryzen_mpi.settings import dump_settings
from ryzen_mpi.units import bytes_text, count_text

if TYPE_CHECKING:
    from ryzen_mpi.comm.rendezvous import Group
    from ryzen_mpi.data.source import TokenSource
    from ryzen_mpi.training.checkpoint_reading import Checkpoint
    from ryzen_mpi.training.stop import StopRequest


def check_processes(world: World, settings: Settings) -> None:
    """Raises UserError, on all ranks alike, where there are too few ranks or too small a batch for them, or where their
    processors want to compute in different precisions (hardware.dtype=auto). Collective."""
    dtypes = world.exchange.allgather(settings.hardware.dtype)
    if len(set(dtypes)) > 1:
        raise UserError(
            f"hardware.dtype=auto is {dtypes[0]} on rank 0 and another on rank {_first_other(dtypes)}: nodes differ",
            "say which: hardware.dtype=float32 works on all",
        )
    least = settings.distributed.min_processes
    if world.size < least:
        raise UserError(
            f"distributed.min_processes={least}: at least {least} processes are needed, and {world.size} started",
            f"mpirun -np {least} python -m ryzen_mpi.train …",
        )
    batch, virtual = settings.training.global_batch, settings.training.virtual_ranks
    if virtual > 1 and world.size > 1:
        raise UserError(
            f"training.virtual_ranks={virtual} plays all ranks in one process, and {world.size} processes started",
            "start it without mpirun, or leave training.virtual_ranks out",
        )
    if batch is not None and batch < world.size * virtual:
        raise UserError(
            f"training.global_batch={batch} is less than one sample a rank for {world.size * virtual} ranks",
            f"at least {world.size * virtual}",
        )


def _first_other(values: Sequence[str]) -> int:
    return next(rank for rank, value in enumerate(values) if value != values[0])


def check_memory(world: World, settings: Settings, domains: int) -> str:
    """What a rank needs, as a line. Collective. Raises UserError on all ranks where it does not fit on some node.

    `domains`: NUMA domains the ranks of this node run on.
    """
    from ryzen_mpi.training.plan import check_fits

    memory, ranks = read_memory(), world.local_size
    room = memory.available_bytes, memory.reason
    need = all_agree(world, lambda: check_fits(settings, ranks, world.nodes, *room, domains))
    return (
        f"{bytes_text(need.rank)} a rank, {bytes_text(need.node)} a node, reckoned; "
        f"{bytes_text(memory.available_bytes)} a node available ({memory.reason})"
    )


def claim_run_directory(world: World, run_dir: str | None, config: str) -> RunDirectory:
    """The run directory, made and locked by rank 0 for this job or attempt. Collective. Raises UserError."""
    chosen = leader_decides(world, lambda: str(Path(run_dir).expanduser() if run_dir else new_run_path(config)))
    run = RunDirectory(Path(chosen), epoch())

    def make() -> None:
        run.create()
        run.lock()
        run.check_fence()

    leader_decides(world, make)
    if not run.path.is_dir():
        time.sleep(1.0)  # a network file system may show it late
    return all_agree(world, lambda: _seen(run))


def _seen(run: RunDirectory) -> RunDirectory:
    if not run.path.is_dir():
        raise UserError(
            f"run directory {run.path} is not there on every node",
            "--run-dir must be on a file system that all nodes share",
        )
    return run


def open_data(
    world: World,
    settings: Settings,
    run: RunDirectory,
    resume: str,
    console: Console,
    stop: StopRequest,
    beacon: Beacon,
) -> tuple[TokenSource, str, Checkpoint | None]:
    """The token source, the identity of its data, and (on rank 0) the checkpoint to go on from. Collective.

    Raises UserError on all ranks where the checkpoint is of another run or the data cannot be had; Stopped where a stop
    signal came: a large corpus takes minutes, and there is no step boundary yet.
    """
    from ryzen_mpi.data.choose import open_source, prepare_source
    from ryzen_mpi.training.state import check_corpus, check_matches, find_checkpoint

    found: Checkpoint | None = None

    def tell(line: str) -> None:
        beacon.beat()
        stop.check()
        console.line(line)

    def prepare() -> str:
        nonlocal found
        found, damaged = find_checkpoint(resume, run.checkpoints)
        for item in damaged:
            console.warn(f"{item.message}; the one before it is used")
        ours = found is not None and found.path.parent.resolve() == run.checkpoints.resolve()
        if not ours and any(run.checkpoints.glob("step-*")):
            # going on would sooner or later retire another training's checkpoints
            raise UserError(
                f"--resume {resume}, but {run.checkpoints} holds other checkpoints", "choose another --run-dir"
            )
        if found is not None:
            check_matches(found.state, settings, found.path)
        keep = found.state["corpus"] if found is not None else None
        with stop.at_once():
            identity = prepare_source(settings, run.data, tell, keep)
        if found is not None:
            check_corpus(found.state, identity, found.path)
        run.write(run.config, dump_settings(settings))
        return identity

    identity = leader_decides(world, prepare)
    source = all_agree(world, lambda: open_source(settings, run.data))
    if source.vocab_size > settings.model.vocab_size:
        raise UserError(f"the data has {source.vocab_size} tokens, model.vocab_size={settings.model.vocab_size}")
    return source, identity, found


def choose_global_batch(world: World, settings: Settings, checkpoint: Checkpoint | None) -> tuple[int, str]:
    """Samples a step, and why: as set, else as the resumed run had it, else by the profile. Collective."""
    kept = world.exchange.broadcast(checkpoint.state["global_batch"] if checkpoint is not None else None)
    if settings.training.global_batch is not None:
        return settings.training.global_batch, "training.global_batch"
    if kept is not None:
        return int(kept), "as the resumed run had it"
    training = settings.training
    return settings.global_batch(world.size), (
        f"{training.batch_size} a micro-batch x {training.gradient_accumulation_steps} x {_ranks(world, settings)}"
    )


def _ranks(world: World, settings: Settings) -> str:
    virtual = settings.training.virtual_ranks
    return f"{virtual} virtual ranks" if virtual > 1 else f"{world.size} ranks"


def _precision(settings: Settings) -> str:
    """What is computed in, and what the processor makes of it."""
    dtype, native = settings.hardware.dtype, has_bfloat16()
    if dtype == "bfloat16":
        how = "" if native else "; this processor has no instructions for it: float32 is many times as fast"
        return f"bfloat16 compute, float32 master weights and moments (hardware.dtype{how})"
    how = "; this processor has no instructions for bfloat16" if dtype == "float32" and not native else ""
    return f"{dtype} throughout (hardware.dtype{how})"


def show(
    console: Console,
    world: World,
    settings: Settings,
    run: RunDirectory,
    place: Placement,
    group: Group,
    facts: list[tuple[str, str]],
) -> None:
    """The start-up tables, each value with its reason. Rank 0 prints."""
    model = settings.model
    shape = (
        f"{model.num_layers} layers, width {model.embedding_dim}, {model.num_heads} heads, feed-forward "
        f"{model.feed_forward_dim}, vocabulary {model.vocab_size}, {model.seq_length} tokens a sample"
    )
    rows = [
        ("world", f"{_ranks(world, settings)} on {world.nodes} node(s), started by {world.launcher}"),
        *_virtual_rows(settings, place),
        (
            "backend",
            f"{group.description}, store {group.store_address}, timeout {group.timeout_s:g} s",
        ),
        ("precision", _precision(settings)),
        ("model", shape),
        *facts,
        ("run directory", str(run.path)),
    ]
    console.table("ryzen_mpi", rows, ("what", "value"))
    console.table("ranks", place.rows, ("rank", "node", "cores", "NUMA domain", "threads", "bound by"))
    for text in place.warnings:
        console.warn(text)


def _virtual_rows(settings: Settings, place: Placement) -> list[tuple[str, str]]:
    """What a person must know of ranks that are played."""
    if settings.training.virtual_ranks == 1:
        return []
    from ryzen_mpi.training.virtual import threads

    each = threads(settings, place.mine.threads)
    return [
        ("virtual ranks", f"one after the other in this process, computing with {each} thread(s) as real ones would")
    ]


def model_facts(
    settings: Settings, source: TokenSource, need: str, batch: tuple[int, str], steps: int, strategy: str
) -> list[tuple[str, str]]:
    """Rows of the start-up table that depend on data and model."""
    from ryzen_mpi.model.transformer import parameter_count

    parameters = parameter_count(settings)
    return [
        ("parameters", f"{count_text(parameters)} ({parameters:,})"),
        ("data", source.describe()),
        ("global batch", f"{batch[0]} samples, {count_text(batch[0] * settings.model.seq_length)} tokens ({batch[1]})"),
        (
            "steps",
            f"{steps} ({settings.training.total_epochs} epoch(s) of {source.num_samples} samples"
            + (
                f", ended by training.max_steps={settings.training.max_steps})"
                if settings.training.max_steps == steps
                else ")"
            ),
        ),
        ("strategy", strategy),
        ("memory", need),
    ]
