"""The text files of a corpus: which ones there are, and their text in pieces that fit in memory."""

from __future__ import annotations

import codecs
import fnmatch
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ryzen_mpi.errors import UserError

BLOCK_BYTES = 2**20
SNIFF_BYTES = 8 * 2**10
ALLOWED = "give text files (UTF-8), or folders that hold some"
# Not the source code a reader of the standard library would read; `idlelib` and the rest stay.
STDLIB_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests"})


class NotText(Exception):
    """A file that is no UTF-8 text; its message is the reason."""


class LeftOut(NamedTuple):
    """A file that is not in the corpus, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Document:
    """One text file.

    Args:
        name: path relative to the folder that was given, with `/`: the same on every machine.
        path: where it lies.
        size_bytes, mtime_ns: as it was found.
    """

    name: str
    path: Path
    size_bytes: int
    mtime_ns: int


@dataclass
class Corpus:
    """The documents in the order they are read, and the files that are none."""

    documents: list[Document] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of all documents."""
        return sum(document.size_bytes for document in self.documents)


def default_corpus() -> Corpus:
    """The Python standard library's source code: real text that is there wherever this runs.

    Raises:
        UserError: the interpreter has none (some embedded distributions ship it compiled).
    """
    stdlib = sysconfig.get_paths()["stdlib"]
    try:
        return find_documents([stdlib], "*.py", skipped_folders=STDLIB_SKIPPED)
    except UserError as error:
        raise UserError(
            f"the default corpus is not here: {error.message}",
            f"this Python has no source code of its standard library; {ALLOWED}",
        ) from error


def find_documents(
    paths: Sequence[str | Path], pattern: str = "*", skipped_folders: frozenset[str] = frozenset()
) -> Corpus:
    """The documents under paths, in their order and sorted within folders; reads no file.

    A file that is named itself is taken whatever its name. In folders, hidden files and folders are
    passed over; links to folders and links that lead out of the folder are left out, and so are
    empty files. A file that is reached twice is taken once.

    Args:
        paths: files and folders.
        pattern: shell pattern that file names in folders must match, such as `*.txt`.
        skipped_folders: names of folders not to enter.

    Raises:
        UserError: a path is missing or cannot be read, or there is no document under all of them.
    """
    corpus, seen = Corpus(), set()
    for path in map(Path, paths):
        try:
            if path.is_dir():
                for file in _files_below(path, pattern, skipped_folders, corpus.left_out):
                    _add(corpus, seen, file.relative_to(path).as_posix(), file)
            elif path.is_file():
                _add(corpus, seen, path.name, path)
            else:
                there = "neither a file nor a folder" if path.exists() else "not there"
                raise UserError(f"corpus path {path} is {there}", ALLOWED)
        except OSError as error:
            raise _unreadable(Path(error.filename or path), error) from error
    if not corpus.documents:
        given = ", ".join(map(str, paths)) or "no path at all"
        raise UserError(f"no text files in the corpus: {given} (pattern {pattern!r})", ALLOWED)
    return corpus


def _files_below(
    folder: Path, pattern: str, skipped_folders: frozenset[str], left_out: list[LeftOut]
) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error  # os.walk passes over a folder it cannot read, unless it is told otherwise

    root = folder.resolve()
    for here, folders, files in os.walk(folder, onerror=refuse):
        for name in sorted(folders):
            if Path(here, name).is_symlink():
                left_out.append(LeftOut(Path(here, name).relative_to(folder).as_posix(), "link to a folder"))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped_folders)
        for name in sorted(fnmatch.filter(files, pattern)):
            path = Path(here, name)
            if name.startswith("."):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                left_out.append(LeftOut(path.relative_to(folder).as_posix(), "link that leaves the folder"))
            elif path.is_file():
                yield path


def _add(corpus: Corpus, seen: set[Path], name: str, path: Path) -> None:
    real, status = path.resolve(strict=True), path.stat()
    if real in seen:
        return
    seen.add(real)
    if status.st_size == 0:
        corpus.left_out.append(LeftOut(name, "empty"))
    else:
        corpus.documents.append(Document(name, path, status.st_size, status.st_mtime_ns))


def without_other_files(corpus: Corpus) -> Corpus:
    """The corpus less the files that are no UTF-8 text, which are left out; reads every file once.

    Raises:
        UserError: a file cannot be read, or no text is left.
    """
    kept = Corpus(left_out=list(corpus.left_out))
    for document in corpus.documents:
        try:
            for _ in read_text(document):
                pass
            kept.documents.append(document)
        except NotText as reason:
            kept.left_out.append(LeftOut(document.name, str(reason)))
    if not kept.documents:
        first = kept.left_out[-1]
        raise UserError(
            f"none of the corpus's {len(corpus.documents)} files is text: {first.name}: {first.reason}",
            ALLOWED,
        )
    return kept


def read_text(document: Document) -> Iterator[str]:
    """The document's text in pieces of at most 2 MiB, cut at line ends where there are any.

    Line ends, so that a tokenizer sees whole words.

    Raises:
        NotText: a NUL byte in the first 8 KiB, or bytes that are not UTF-8.
        UserError: the file cannot be read.
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    rest = ""
    for position, block in enumerate(_blocks(document.path)):
        if position == 0 and b"\0" in block[:SNIFF_BYTES]:
            raise NotText(f"binary (a NUL byte in its first {SNIFF_BYTES} bytes)")
        try:
            text = rest + decode(block, final=not block)
        except UnicodeDecodeError:
            raise NotText("not UTF-8") from None
        cut = text.rfind("\n") + 1 or len(text)  # what is left never holds a line end, so the end takes all
        piece, rest = text[:cut], text[cut:]
        if piece:
            yield piece


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks of 1 MiB, and an empty one at its end."""
    try:
        with open(path, "rb") as file:
            block = b"start"
            while block:
                block = file.read(BLOCK_BYTES)
                yield block
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path}: {error.strerror or error}",
        "check its permissions, or leave it out of the corpus",
    )
