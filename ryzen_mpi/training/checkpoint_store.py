"""One checkpoint on disk: a directory of safetensors files and a manifest that vouches for every byte.

    checkpoints/step-00000500/model.safetensors, optimizer.safetensors, ..., manifest.json

The manifest holds the sizes and SHA-256 of the files, and a checksum of itself; its bytes must be the canonical
serialisation of what they say, so that a flipped bit anywhere is found. A directory is written under a hidden name,
synchronised and renamed: what is called `step-...` is complete. Nothing is pickled. Every function here is local.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import synchronise

FORMAT = 1
MANIFEST = "manifest.json"
Tensors = dict[str, dict[str, torch.Tensor]]

_SUFFIX = ".safetensors"
_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_CHUNK_BYTES = 4 << 20
# Shown, or set aside by a replacement that was killed between its two renames (the only good copy then).
_FOUND = re.compile(r"step-(\d{8,})|\.step-(\d{8,})\.replaced-\d+")


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
        tensors: by file stem ("model", "optimizer"), then by name; in CPU memory of their own, free to be changed.
        path: its directory.
    """

    step: int
    state: dict[str, Any]
    tensors: Tensors
    path: Path


def directory_name(step: int) -> str:
    """The name of step `step`'s directory; names sort as the steps do up to 99 999 999 steps."""
    return f"step-{step:08d}"


def tensor_bytes(tensors: Tensors) -> int:
    """What `tensors` take, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for named in tensors.values() for tensor in named.values())


def canonical(value: Any) -> bytes:
    """The one serialisation of a JSON value. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# -- writing ----------------------------------------------------------------------------------------------------------


def check_stems(tensors: Tensors) -> None:
    """Raises ValueError where a file stem is not a plain name."""
    for stem in tensors:
        if not _STEM.fullmatch(stem):
            raise ValueError(f"checkpoint file stem {stem!r} is not a plain name")


def write_checkpoint(
    directory: Path, step: int, tensors: Tensors, state: dict[str, Any], staging: Path | None = None
) -> Path:
    """Writes step `step`'s checkpoint into `directory` and returns its path, once it would survive a power cut.

    It is prepared in `staging` (`directory` itself when absent): where that has gone, nothing can be put in place.
    Raises OSError; what stood under the step's name before is untouched then, and nothing half-written remains.
    """
    target = directory / directory_name(step)
    partial = (staging or directory) / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)  # process ids come back, in containers at once
    try:
        partial.mkdir()
        files = {f"{stem}{_SUFFIX}": _write_tensors(partial / f"{stem}{_SUFFIX}", tensors[stem]) for stem in tensors}
        _write_manifest(partial / MANIFEST, {"format": FORMAT, "step": step, "state": state, "files": files})
        synchronise(partial)
        _put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes one file and returns its manifest entry. The library releases the GIL and copies nothing (measured)."""
    path.touch()  # so that a full disk or a missing right is an OSError with its number, not a SafetensorError
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise _as_os_error(error, path) from error
    synchronise(path)
    size, digest = _measure(path)
    return {"bytes": size, "sha256": digest}


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """The OSError inside the library's text "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(f"{path}: {error}")


def _write_manifest(path: Path, content: dict[str, Any]) -> None:
    content = content | {"checksum": _checksum(content)}
    path.write_bytes(canonical(content))
    synchronise(path)


def _put_in_place(partial: Path, target: Path) -> None:
    """Renames `partial` to `target`. An older `target` stays on disk until the new one is in place."""
    replaced = partial.with_name(f".{target.name}.replaced-{os.getpid()}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        with contextlib.suppress(OSError):  # there was none, or it went with the staging folder: that one is kept
            replaced.rename(target)
        raise
    synchronise(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _measure(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, read in chunks."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


# -- reading ----------------------------------------------------------------------------------------------------------


def find_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, newest (highest step) first; unverified. Empty where there is no directory."""
    found: dict[int, Path] = {}
    for path in sorted(directory.glob("step-*")) + sorted(directory.glob(".step-*.replaced-*")):
        match = _FOUND.fullmatch(path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1] or match[2]), path)
    return [found[step] for step in sorted(found, reverse=True)]


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
    tensors = {name.removesuffix(_SUFFIX): _load_tensors(path, name) for name in manifest["files"]}
    return Checkpoint(manifest["step"], manifest["state"], tensors, path)


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
    if content.pop("checksum", None) != _checksum(content):
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
        if not name.endswith(_SUFFIX) or not _STEM.fullmatch(name):
            raise DamagedCheckpoint(path, MANIFEST, f"names a file that is not plainly inside: {name!r}")
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise DamagedCheckpoint(path, MANIFEST, f"lacks bytes or sha256 of {name}")
    match = _FOUND.fullmatch(path.name)
    if match and int(match[1] or match[2]) != step:
        raise DamagedCheckpoint(path, MANIFEST, f"says step {step}, its directory another")


def _verify_file(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Raises DamagedCheckpoint where file `name` is not the one its manifest entry describes."""
    size = _require_file(path, name)
    if size != entry["bytes"]:  # before hashing: a cut file is the usual damage
        raise DamagedCheckpoint(path, name, f"has {size} bytes instead of {entry['bytes']}")
    try:
        _, digest = _measure(path / name)
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


def _load_tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        # Not mapped: a mapped file that another node deletes over NFS ends in SIGBUS when a page is first touched.
        return load_file(path / name, backend="pread")
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(path, name, f"is not a safetensors file ({error})") from error


def _unreadable(path: Path, name: str, error: OSError) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"checkpoint {path}: {name}: may not be read", "check the rights of the run directory")
    return DamagedCheckpoint(path, name, f"cannot be read ({error.strerror})")
