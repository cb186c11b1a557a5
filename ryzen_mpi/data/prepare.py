"""Text files to token files: once, on one process, streaming, and never half done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ryzen_mpi.data.corpus import Corpus, default_corpus, find_documents, without_other_files
from ryzen_mpi.data.prepared import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    TRAIN_FILE,
    TextCorpus,
    entropy_of_counts,
    file_names,
    sha256_of,
    unigram_counts,
)
from ryzen_mpi.data.tokenise import Progress, make_tokenizer, move_tail, plan_split, token_dtype, write_tokens
from ryzen_mpi.data.tokenizer import check_vocab_size
from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import synchronise

PARTIAL_FOLDER = "corpus.partial"
LEFT_OUT_NAMED = 100


@dataclass(frozen=True)
class Settings:
    """What, besides the files, decides the tokens; part of the fingerprint."""

    tokenizer_kind: str
    vocab_size: int
    held_out_fraction: float


def prepare_text(
    directory: str | Path,
    paths: Sequence[str | Path] | None,
    tokenizer_kind: str = "bytes",
    vocab_size: int | None = None,
    held_out_fraction: float = 0.05,
    *,
    seq_length: int,
    pattern: str = "*",
    progress: Progress = lambda line: None,
) -> TextCorpus:
    """Tokenise a corpus into `directory`, or find that this has been done; one process only.

    Documents are held out whole, chosen by the hash of their names, or else the end of the token
    stream is (`tokenise.plan_split`). The result depends on the files and the arguments, never on
    what lay in `directory` before. An interrupted preparation leaves no corpus.json and is done
    again.

    Args:
        directory: where the token files go; other files in it are left alone.
        paths: text files and folders; None: the Python standard library's source code.
        tokenizer_kind: `bytes` (vocab_size None or 256) or `bpe` (vocab_size 258 to 65536).
        held_out_fraction: share of the corpus that is not trained, between 0 and 1.
        seq_length: tokens a sample trains; both sides get at least one sample of it.
        pattern: shell pattern for file names in folders.
        progress: is given lines about what is going on.

    Returns:
        The description of what lies in `directory`; `text.open_text` opens it.

    Raises:
        UserError: an argument is out of range, a path is missing or unreadable, there is no text or
            less than two samples, or `directory` cannot be written.
    """
    settings = _checked_settings(tokenizer_kind, vocab_size, held_out_fraction, seq_length)
    directory = Path(directory)
    corpus = default_corpus() if paths is None else _find_outside(directory, paths, pattern)
    fingerprint = _fingerprint(corpus, settings)
    with _user_errors(directory):
        reason = _why_build(directory, fingerprint, settings, seq_length)
        if reason is None:
            progress(f"corpus: reusing the tokens in {directory}")
            return TextCorpus.load(directory)
        progress(f"corpus: preparing {directory} ({reason})")
        partial = _empty_folder(directory / PARTIAL_FOLDER)
        prepared = _build(partial, without_other_files(corpus), settings, seq_length, fingerprint, progress)
        _install(partial, directory, prepared)
        return prepared


def _checked_settings(
    tokenizer_kind: str, vocab_size: int | None, held_out_fraction: float, seq_length: int
) -> Settings:
    if not 0 < held_out_fraction < 1:
        raise UserError(f"held-out fraction {held_out_fraction} is out of range", "between 0 and 1, such as 0.05")
    if seq_length < 1:
        raise UserError(f"sequence length {seq_length} is out of range", "at least 1")
    return Settings(tokenizer_kind, check_vocab_size(tokenizer_kind, vocab_size), held_out_fraction)


def _find_outside(directory: Path, paths: Sequence[str | Path], pattern: str) -> Corpus:
    """The documents under paths; refuses paths that our own files would become part of."""
    for path in paths:
        if directory.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(
                f"the prepared corpus {directory} would lie inside the corpus {path}",
                "choose a run directory outside of it, or give its text folders one by one",
            )
    return find_documents(paths, pattern)


def _fingerprint(corpus: Corpus, settings: Settings) -> str:
    """SHA-256 of everything that decides the tokens, without reading a file."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, asdict(settings)]).encode())
    for document in corpus.documents:
        line = [document.name, str(document.path.absolute()), document.size_bytes, document.mtime_ns]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _why_build(directory: Path, fingerprint: str, settings: Settings, seq_length: int) -> str | None:
    """Why what lies in `directory` cannot be reused, or None where it can."""
    if not (directory / DESCRIPTION_FILE).exists():
        interrupted = (directory / PARTIAL_FOLDER).exists()
        return "an earlier preparation was interrupted" if interrupted else "for the first time"
    try:
        prepared = TextCorpus.load(directory)
    except UserError as error:
        return error.message
    if prepared.fingerprint != fingerprint:
        return "the corpus or its settings have changed"
    by_document = prepared.train_document_tokens, prepared.held_out_document_tokens
    split = plan_split(*by_document, seq_length, settings.held_out_fraction)
    if (split.train_tokens, split.held_out_tokens) != (prepared.train_tokens, prepared.held_out_tokens):
        return f"a sequence length of {seq_length} needs another split"
    return prepared.wrong_size(directory) or prepared.wrong_hash(directory)


def _build(
    partial: Path, corpus: Corpus, settings: Settings, seq_length: int, fingerprint: str, progress: Progress
) -> TextCorpus:
    """Write all files of the prepared corpus into `partial`."""
    size = f"{len(corpus.documents)} files, {corpus.size_bytes / 1e6:.1f} MB"
    progress(f"corpus: {size}, {len(corpus.left_out)} left out")
    tokenizer = make_tokenizer(partial, corpus, settings.tokenizer_kind, settings.vocab_size)
    dtype = token_dtype(tokenizer)
    tokens, documents = write_tokens(partial, corpus, tokenizer, settings.held_out_fraction, progress)
    split = plan_split(*tokens, seq_length, settings.held_out_fraction)
    if split.kind == "stream":
        move_tail(partial, split.held_out_tokens * np.dtype(dtype).itemsize)
    counts = unigram_counts(partial / TRAIN_FILE, dtype, tokenizer.vocab_size)
    frequent = np.argsort(-counts, kind="stable")[:10].tolist()
    prepared = TextCorpus(
        format_version=FORMAT_VERSION,
        fingerprint=fingerprint,
        tokenizer=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        split=split.kind,
        train_document_tokens=tokens[0],
        held_out_document_tokens=tokens[1],
        train_tokens=split.train_tokens,
        held_out_tokens=split.held_out_tokens,
        unigram_entropy=entropy_of_counts(counts),
        unigrams={
            "distinct": int((counts > 0).sum()),
            "most_frequent": [[token, int(counts[token])] for token in frequent if counts[token]],
        },
        documents=len(corpus.documents),
        held_out_documents=documents[1] if split.kind == "documents" else 0,
        corpus_bytes=corpus.size_bytes,
        left_out_files=len(corpus.left_out),
        left_out=[list(entry) for entry in corpus.left_out[:LEFT_OUT_NAMED]],
        sha256={name: sha256_of(partial / name) for name in file_names(tokenizer.kind)},
    )
    prepared.save(partial)
    progress(
        f"corpus: {split.train_tokens} training and {split.held_out_tokens} held-out tokens, "
        f"unigram entropy {prepared.unigram_entropy:.4f} nats"
    )
    return prepared


def _empty_folder(path: Path) -> Path:
    """A new folder in place of what an interrupted preparation left there."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


@contextmanager
def _user_errors(directory: Path) -> Iterator[None]:
    """Say what the file system refuses as a user error, and give back the room of half a corpus."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the prepared corpus in {directory}: {error.strerror or error}",
            "choose a run directory on a file system with room that you may write to",
        ) from error
    finally:
        shutil.rmtree(directory / PARTIAL_FOLDER, ignore_errors=True)


def _install(partial: Path, directory: Path, prepared: TextCorpus) -> None:
    """Move the finished files into place; corpus.json goes first and comes last.

    Killed anywhere in between, the directory has no corpus.json and is not taken for finished.
    A rank that still maps the old files keeps them: renaming replaces names, not content.
    """
    names = [*file_names(prepared.tokenizer), DESCRIPTION_FILE]
    for name in names:
        synchronise(partial / name)
    (directory / DESCRIPTION_FILE).unlink(missing_ok=True)
    for name in names:
        if name == DESCRIPTION_FILE:
            synchronise(directory)
        os.replace(partial / name, directory / name)
    synchronise(directory)
