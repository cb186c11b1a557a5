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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ryzen_mpi.rundir import synchronise

FORMAT = 1
MANIFEST = "manifest.json"
Tensors = dict[str, dict[str, torch.Tensor]]

SUFFIX = ".safetensors"
STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_CHUNK_BYTES = 4 << 20
# Shown, or set aside by a replacement that was killed between its two renames (the only good copy then).
FOUND = re.compile(r"step-(\d{8,})|\.step-(\d{8,})\.replaced-\d+")


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
        if not STEM.fullmatch(stem):
            raise ValueError(f"checkpoint file stem {stem!r} is not a plain name")


def write_checkpoint(
    directory: Path,
    step: int,
    tensors: Tensors,
    state: dict[str, Any],
    staging: Path | None = None,
    others: Callable[[Path], dict[str, dict[str, Any]]] = lambda _: {},
) -> Path:
    """Writes step `step`'s checkpoint into `directory` and returns its path, once it would survive a power cut.

    It is prepared in `staging` (`directory` itself when absent): where that has gone, nothing can be put in place.
    `others` moves the files of other writers into the directory it is given and returns their manifest entries.
    Raises OSError; what stood under the step's name before is untouched then, and nothing half-written remains.
    """
    target = directory / directory_name(step)
    partial = (staging or directory) / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)  # process ids come back, in containers at once
    try:
        partial.mkdir()
        files = {f"{stem}{SUFFIX}": write_tensors(partial / f"{stem}{SUFFIX}", tensors[stem]) for stem in tensors}
        files |= others(partial)
        _write_manifest(partial / MANIFEST, {"format": FORMAT, "step": step, "state": state, "files": files})
        synchronise(partial)
        _put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes one file and returns its manifest entry. The library releases the GIL and copies nothing (measured)."""
    path.touch()  # so that a full disk or a missing right is an OSError with its number, not a SafetensorError
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise _as_os_error(error, path) from error
    synchronise(path)
    size, digest = measure(path)
    return {"bytes": size, "sha256": digest}


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """The OSError inside the library's text "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(f"{path}: {error}")


def _write_manifest(path: Path, content: dict[str, Any]) -> None:
    content = content | {"checksum": checksum(content)}
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


def measure(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, read in chunks."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()
