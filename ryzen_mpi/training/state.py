"""Between a training step and its checkpoints: what is kept, what must agree, and how it comes back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.checkpoint_store import Checkpoint, DamagedCheckpoint, load_checkpoint, newest_good
from ryzen_mpi.training.reduce import broadcast_vector, world_size
from ryzen_mpi.training.step import Progress, TrainingStep

# What the order of the samples and the meaning of the weights depend on: a resumed run must have the same.
_FIXED = ("model", "data", "training.seed", "hardware.max_seq_length")
_FREE = ("model.dropout", "data.paths")


def checkpoint_tensors(step: TrainingStep) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and moments by file and parameter name; views, not copies."""
    moments = {f"first.{name}": part for name, part in step.flat.named(step.optimizer.first).items()}
    moments |= {f"second.{name}": part for name, part in step.flat.named(step.optimizer.second).items()}
    return {"model": step.flat.named(step.flat.master), "optimizer": moments}


def checkpoint_state(step: TrainingStep, corpus: str) -> dict[str, Any]:
    """The rest of what a resume needs, as JSON values. `corpus`: fingerprint of the data."""
    return {
        "progress": asdict(step.progress),
        "updates": step.optimizer.updates,
        "global_batch": step.global_batch,
        "ranks": step.ranks,
        "corpus": corpus,
        "settings": step.settings.model_dump(mode="json"),
    }


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


def restore(step: TrainingStep, checkpoint: Checkpoint | None) -> None:
    """Puts rank 0's `checkpoint` (None on the others) into `step` on all ranks. Collective."""
    if checkpoint is not None:
        for name, view in step.flat.named(step.flat.master).items():
            view.copy_(checkpoint.tensors["model"][name])
        for prefix, vector in (("first", step.optimizer.first), ("second", step.optimizer.second)):
            for name, view in step.flat.named(vector).items():
                view.copy_(checkpoint.tensors["optimizer"][f"{prefix}.{name}"])
    numbers = torch.zeros(4, dtype=torch.int64)
    if checkpoint is not None:
        progress = Progress(**checkpoint.state["progress"])
        numbers = torch.tensor([progress.step, progress.samples, progress.skipped, checkpoint.state["updates"]])
    if world_size(step.group) > 1:
        for tensor in (step.flat.master, step.optimizer.first, step.optimizer.second, numbers):
            broadcast_vector(tensor, step.group)
    step.progress = Progress(*(int(n) for n in numbers[:3]))
    step.optimizer.updates = int(numbers[3])
    step.flat.publish()


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
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.tensors["model"][name])
    return model, checkpoint, damaged
