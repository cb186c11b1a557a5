"""The other half of checkpoint_store: finding checkpoints, verifying every byte of them, reading them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ryzen_mpi.errors import UserError
from ryzen_mpi.training.checkpoint_store import (
    FORMAT,
    FOUND,
    MANIFEST,
    STEM,
    SUFFIX,
    Tensors,
    canonical,
    checksum,
    measure,
)


class DamagedCheckpoint(UserError):
    """A checkpoint that must not be trained from.

    Args:
        path: the checkpoint's directory.
        file: the file in it that is at fault.
        problem: what is wrong with that file.
    """

    def __init__(self, path: Path, file: str, problem: str) -> None:
        super().__init__(f"checkpoint {path}: {file}: {problem}", "an earlier checkpoint of the run may be good")
        self.path, self.file, self.problem = path, file, problem


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        step: the step after which it was saved.
        state: what the trainer gave to be kept beside the tensors (JSON values).
        path: its directory.
        stems: of its tensor files, in the order of their names.
    """

    step: int
    state: dict[str, Any]
    path: Path
    stems: tuple[str, ...]

    @property
    def tensors(self) -> Tensors:
        """All of them, by file stem ("model", "optimizer"), then by name; read now, free to be changed."""
        return {stem: dict(open_tensors(self.path, stem)) for stem in self.stems}


def find_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, newest (highest step) first; unverified. Empty where there is no directory."""
    found: dict[int, Path] = {}
    for path in sorted(directory.glob("step-*")) + sorted(directory.glob(".step-*.replaced-*")):
        match = FOUND.fullmatch(path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1] or match[2]), path)
    return [found[step] for step in sorted(found, reverse=True)]


def step_of(path: Path) -> int:
    """The step that a checkpoint's directory is named after. Pure."""
    match = FOUND.fullmatch(path.name)
    assert match is not None, path
    return int(match[1] or match[2])


def newest_good(directory: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """The newest checkpoint that verifies (None where none does), and what is wrong with the newer ones.

    Raises UserError where a checkpoint is of a newer format or may not be read: going on to an older one would
    throw training away that is not lost.
    """
    damaged: list[DamagedCheckpoint] = []
    for path in find_checkpoints(directory):
        try:
            return load_checkpoint(path), damaged
        except DamagedCheckpoint as error:
            if path.is_dir():  # or else the run's writer has just retired it
                damaged.append(error)
    return None, damaged


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint after verifying every byte of it.

    Raises DamagedCheckpoint naming the file and the fault; UserError for a newer format or a missing right.
    """
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        _verify_file(path, name, entry)
    stems = tuple(name.removesuffix(SUFFIX) for name in sorted(manifest["files"]))
    for stem in stems:
        open_tensors(path, stem)  # a file that is what was written, and yet no safetensors file
    return Checkpoint(manifest["step"], manifest["state"], path, stems)


def _read_manifest(path: Path) -> dict[str, Any]:
    _require_file(path, MANIFEST)
    try:
        raw = (path / MANIFEST).read_bytes()
        content = json.loads(raw)
        same = isinstance(content, dict) and canonical(content) == raw
    except OSError as error:
        raise _unreadable(path, MANIFEST, error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(path, MANIFEST, f"is not JSON ({error})") from error
    if not same:
        raise DamagedCheckpoint(path, MANIFEST, "is not as it was written (not in canonical form)")
    if content.pop("checksum", None) != checksum(content):
        raise DamagedCheckpoint(path, MANIFEST, "is not as it was written (its checksum differs)")
    _check_manifest(path, content)
    return content


def _check_manifest(path: Path, content: dict[str, Any]) -> None:
    """Checks what a manifest says; its checksum holds, so what is wrong here was written wrong, or by others."""
    version = content.get("format")
    if isinstance(version, int) and version > FORMAT:
        message = f"checkpoint {path} has format {version}; this version of ryzen_mpi reads up to {FORMAT}"
        raise UserError(message, "use the version of ryzen_mpi that wrote it, or a newer one")
    step, state, files = content.get("step"), content.get("state"), content.get("files")
    if version != FORMAT or type(step) is not int or not isinstance(state, dict) or not isinstance(files, dict):
        raise DamagedCheckpoint(path, MANIFEST, "lacks format, step, state or files")
    for name, entry in files.items():
        if not name.endswith(SUFFIX) or not STEM.fullmatch(name):
            raise DamagedCheckpoint(path, MANIFEST, f"names a file that is not plainly inside: {name!r}")
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise DamagedCheckpoint(path, MANIFEST, f"lacks bytes or sha256 of {name}")
    match = FOUND.fullmatch(path.name)
    if match and int(match[1] or match[2]) != step:
        raise DamagedCheckpoint(path, MANIFEST, f"says step {step}, its directory another")


def _verify_file(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Raises DamagedCheckpoint where file `name` is not the one its manifest entry describes."""
    size = _require_file(path, name)
    if size != entry["bytes"]:  # before hashing: a cut file is the usual damage
        raise DamagedCheckpoint(path, name, f"has {size} bytes instead of {entry['bytes']}")
    try:
        _, digest = measure(path / name)
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if digest != entry["sha256"]:
        raise DamagedCheckpoint(path, name, "holds other bytes than were written (its SHA-256 differs)")


def _require_file(path: Path, name: str) -> int:
    """The size in bytes of a regular file of the checkpoint (opening a pipe would hang)."""
    try:
        status = (path / name).stat()
    except FileNotFoundError as error:
        raise DamagedCheckpoint(path, name, "is missing") from error
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedCheckpoint(path, name, "is not a file")
    return status.st_size


def open_tensors(path: Path, stem: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of one of a checkpoint's files, read one after the other. Raises DamagedCheckpoint."""
    name = f"{stem}{SUFFIX}"
    try:
        # Not mapped: a mapped file that another node deletes over NFS ends in SIGBUS when a page is first touched.
        file = safe_open(path / name, "pt", backend="pread")
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(path, name, f"is not a safetensors file ({error})") from error
    return ((key, file.get_tensor(key)) for key in file.keys())


def _unreadable(path: Path, name: str, error: OSError) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"checkpoint {path}: {name}: may not be read", "check the rights of the run directory")
    return DamagedCheckpoint(path, name, f"cannot be read ({error.strerror})")
