"""Between a training step and its checkpoints: what is kept, what must agree, and how it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.checkpoint_reading import (
    Checkpoint,
    DamagedCheckpoint,
    load_checkpoint,
    newest_good,
    open_tensors,
)
from ryzen_mpi.training.flat import FlatParameters, Layout
from ryzen_mpi.training.reduce import broadcast_vector, world_size
from ryzen_mpi.training.shards import stem
from ryzen_mpi.training.step import Progress, TrainingStep
from ryzen_mpi.training.strategy import VECTORS, Stretch
from ryzen_mpi.training.zero.cut import Cut, Owner

# What the order of the samples and the meaning of the weights depend on: a resumed run must have the same.
_FIXED = ("model", "data", "training.seed", "hardware.max_seq_length")
_FREE = ("model.dropout", "data.paths")


def checkpoint_tensors(step: TrainingStep) -> dict[str, dict[str, torch.Tensor]]:
    """What this rank writes of weights and moments, by file and name; views, not copies. Empty where it writes nothing.

    Under stage 0 rank 0 writes whole parameters by name; under ZeRO every rank its shard of each vector.
    """
    strategy = step.strategy
    if strategy.cut is not None:
        return {stem(step.rank): dict(strategy.vectors())}
    if step.rank:
        return {}
    vectors = dict(strategy.vectors())
    named = {name: _named(strategy.layout, vector) for name, vector in vectors.items()}
    moments = {f"{which}.{name}": part for which in VECTORS[1:] for name, part in named[which].items()}
    return {"model": named["model"], "optimizer": moments}


def _named(layout: Layout, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    return {place.name: FlatParameters.view(vector, place) for place in layout.places}


def checkpoint_state(step: TrainingStep, corpus: str) -> dict[str, Any]:
    """The rest of what a resume needs, as JSON values. `corpus`: fingerprint of the data."""
    state = {
        "progress": asdict(step.progress),
        "updates": step.strategy.updates,
        "global_batch": step.global_batch,
        "ranks": step.ranks,
        "corpus": corpus,
        "settings": step.settings.model_dump(mode="json"),
    }
    if step.strategy.cut is not None:
        state["cut"] = asdict(step.strategy.cut)
        state["owners"] = [[owner.local, owner.node] for owner in step.strategy.owners]
    return state


def read_stretches(checkpoint: Checkpoint, layout: Layout) -> Iterator[Stretch]:
    """Weights and moments of a checkpoint, a tensor at a time, whatever stage and number of ranks wrote it. Local.

    Raises DamagedCheckpoint where a part is missing.
    """
    if "cut" in checkpoint.state:
        yield from _read_shards(checkpoint, layout)
        return
    offsets = {f"{vector}.{place.name}": place.offset for vector in VECTORS for place in layout.places}
    for file, prefix in (("model", "model."), ("optimizer", "")):
        for key, values in open_tensors(checkpoint.path, file):
            yield (prefix + key).partition(".")[0], offsets.pop(prefix + key), values.reshape(-1)
    for key in offsets:
        raise DamagedCheckpoint(checkpoint.path, "model.safetensors", f"lacks {key}, or the optimizer's file does")


def _read_shards(checkpoint: Checkpoint, layout: Layout) -> Iterator[Stretch]:
    cut, owners = Cut(**checkpoint.state["cut"]), checkpoint.state["owners"]
    if cut.size != layout.size or len(owners) != cut.local * cut.nodes:
        raise DamagedCheckpoint(checkpoint.path, "manifest.json", "describes shards of another model")
    for rank, owner in enumerate(owners):
        missing = set(VECTORS)
        for vector, values in open_tensors(checkpoint.path, stem(rank)):
            if values.numel() != cut.shard:
                raise DamagedCheckpoint(checkpoint.path, stem(rank), f"{vector} has {values.numel()} elements")
            missing.discard(vector)
            for begin, part in cut.stretches(values, Owner(*owner)):
                yield vector, begin, part
        if missing:
            raise DamagedCheckpoint(checkpoint.path, stem(rank), f"lacks {', '.join(sorted(missing))}")


def find_checkpoint(resume: str, checkpoints: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """The checkpoint that `--resume` means, and the damaged ones passed over. Rank 0. Raises UserError.

    Args:
        resume: `auto` (newest good one in `checkpoints`, if any), `never`, or a run or checkpoint directory.
    """
    if resume == "never":
        return None, []
    if resume == "auto":
        return _or_refuse(checkpoints)
    path = Path(resume).expanduser()
    if (path / "manifest.json").is_file():
        return load_checkpoint(path), []
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not folder.is_dir():
        raise UserError(f"--resume {resume}: no such directory", "auto, never, a run directory or a checkpoint in one")
    found, damaged = _or_refuse(folder)
    if found is None:
        raise UserError(f"--resume {resume} holds no checkpoint", "auto, never, a run directory or a checkpoint in one")
    return found, damaged


def _or_refuse(folder: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    found, damaged = newest_good(folder)
    if found is None and damaged:
        names = "; ".join(str(item.message) for item in damaged)
        raise UserError(f"no checkpoint in {folder} is good: {names}", "--resume never starts from the beginning")
    return found, damaged


def check_matches(state: dict[str, Any], settings: Settings, path: Path) -> None:
    """Raises UserError naming the settings that differ where the checkpoint is of another model or data."""
    then, now = _flatten(state["settings"]), _flatten(settings.model_dump(mode="json"))
    differing = [
        f"{key}={now.get(key)} (checkpoint: {then.get(key)})"
        for key in sorted(then.keys() | now.keys())
        if key.startswith(_FIXED) and key not in _FREE and then.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(
            f"{path} is of another run: {', '.join(differing)}",
            "give the settings it was made with, or --resume never and another --run-dir",
        )


def check_corpus(state: dict[str, Any], corpus: str, path: Path) -> None:
    """Raises UserError where the data is not what the checkpoint was trained on."""
    if state["corpus"] != corpus:
        raise UserError(
            f"{path} was trained on other data: the corpus has changed since",
            "resume with the files it was started with, or --resume never and another --run-dir",
        )


def restore(world: World, step: TrainingStep, checkpoint: Checkpoint | None) -> None:
    """Puts rank 0's `checkpoint` (None on the others, or nowhere) into `step` on all ranks. Collective.

    Under ZeRO every rank reads what concerns it, otherwise rank 0 reads and tells. Raises UserError on all ranks.
    """
    told = None if checkpoint is None else [checkpoint.step, checkpoint.state, str(checkpoint.path), checkpoint.stems]
    told = world.exchange.broadcast(told)
    if told is None:
        return
    checkpoint = Checkpoint(told[0], told[1], Path(told[2]), tuple(told[3]))
    strategy, alone = step.strategy, step.strategy.cut is None
    if not alone or step.rank == 0:
        strategy.load(read_stretches(checkpoint, strategy.layout))
    if alone and world_size(step.group) > 1:
        for _, vector in strategy.vectors():
            broadcast_vector(vector, step.group)
    step.progress = Progress(**checkpoint.state["progress"])
    strategy.updates = int(checkpoint.state["updates"])
    strategy.settle()


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def load_model(settings: Settings, checkpoints: Path) -> tuple[Transformer, Checkpoint, list[DamagedCheckpoint]]:
    """The newest good checkpoint's model, in float32, and the damaged ones passed over. Local. Raises UserError."""
    checkpoint, damaged = _or_refuse(checkpoints)
    if checkpoint is None:
        raise UserError(f"{checkpoints} holds no checkpoint yet", "training saves every training.save_interval steps")
    check_matches(checkpoint.state, settings, checkpoint.path)
    model = Transformer(settings)
    flat = FlatParameters(model, torch.float32)
    for vector, begin, values in read_stretches(checkpoint, flat.layout):
        if vector == "model":
            flat.master[begin : begin + values.numel()].copy_(values)
    return model, checkpoint, damaged
