"""Documents to two token files: train the tokenizer, write the tokens, decide what is held out."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ryzen_mpi.data.corpus import Corpus, Document, NotText, read_text
from ryzen_mpi.data.prepared import HELD_OUT_FILE, TRAIN_FILE
from ryzen_mpi.data.text import windows
from ryzen_mpi.data.tokenizer import (
    TOKENIZER_FILE,
    TRAIN_BYTES,
    BpeTokenizer,
    ByteTokenizer,
    Tokenizer,
    spread,
)
from ryzen_mpi.errors import UserError

COPY_BYTES = 4 * 2**20
PROGRESS_INTERVAL_S = 5.0
# How far the share that whole documents hold out may be from the one asked for: a hash knows
# nothing of sizes, and of five books it may hold out the thickest two. (Asked for 0.05, it holds
# out 0.10 of the standard library: a few modules are most of it.)
SPLIT_TOLERANCE = 4.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """How the tokens are divided.

    Args:
        kind: `documents`, where whole ones are held out, or `stream`, where the last tokens are.
        train_tokens, held_out_tokens: on each side.
    """

    kind: str
    train_tokens: int
    held_out_tokens: int


def plan_split(train: int, held_out: int, seq_length: int, fraction: float) -> Split:
    """The split for a sequence length; pure.

    By documents, unless that leaves a side without a full sample or holds out less than a quarter of
    the fraction or more than four times; then by the end of the stream, at least one sample on each
    side.

    Args:
        train, held_out: tokens in the documents of each side.

    Raises:
        UserError: there are not two samples in all.
    """
    total, sample = train + held_out, seq_length + 1
    if total < 2 * sample:
        raise UserError(
            f"the corpus is too short: {total} tokens, but training and evaluation need a sample of "
            f"{seq_length} + 1 tokens each",
            "give more text or a shorter sequence length",
        )
    full = min(windows(train, seq_length), windows(held_out, seq_length)) >= 1
    if full and fraction / SPLIT_TOLERANCE <= held_out / total <= fraction * SPLIT_TOLERANCE:
        return Split("documents", train, held_out)
    tail = min(max(round(total * fraction), sample), total - sample)
    return Split("stream", total - tail, tail)


def is_held_out(name: str, fraction: float) -> bool:
    """Whether the document of this name is held out: a function of the name, stable as others come and go."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) < fraction * 2**64


def make_tokenizer(folder: Path, corpus: Corpus, kind: str, vocab_size: int) -> Tokenizer:
    """The tokenizer of a kind; BPE is trained on up to 32 MiB of the corpus and saved in `folder`."""
    if kind == ByteTokenizer.kind:
        return ByteTokenizer()
    texts = (text for document in corpus.documents for text in _stable_text(document))
    tokenizer = BpeTokenizer.train(spread(texts, corpus.size_bytes, TRAIN_BYTES), vocab_size)
    tokenizer.save(folder / TOKENIZER_FILE)
    return tokenizer


def write_tokens(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer, fraction: float, progress: Progress
) -> tuple[list[int], list[int]]:
    """Write each document and a separator to train.bin or held_out.bin in `folder`.

    Returns:
        Tokens, and documents, each as [training, held-out].
    """
    tokens, documents = [0, 0], [0, 0]
    dtype = token_dtype(tokenizer)
    meter = _Meter(corpus.size_bytes, progress)
    with open(folder / TRAIN_FILE, "wb") as train, open(folder / HELD_OUT_FILE, "wb") as held_out:
        for document in corpus.documents:
            side = int(is_held_out(document.name, fraction))
            file = (train, held_out)[side]
            for piece in _encoded(document, tokenizer):
                file.write(piece.astype(dtype).tobytes())
                tokens[side] += len(piece)
            documents[side] += 1
            meter.add(document.size_bytes)
    return tokens, documents


def move_tail(folder: Path, held_out_bytes: int) -> None:
    """Join both token files of `folder` and make the last held_out_bytes the held-out ones."""
    with open(folder / TRAIN_FILE, "r+b") as train, open(folder / HELD_OUT_FILE, "r+b") as held_out:
        train.seek(0, 2)
        shutil.copyfileobj(held_out, train, COPY_BYTES)
        train.flush()
        cut = train.seek(0, 2) - held_out_bytes
        held_out.seek(0)
        held_out.truncate()
        train.seek(cut)
        shutil.copyfileobj(train, held_out, COPY_BYTES)
        train.truncate(cut)


def token_dtype(tokenizer: Tokenizer) -> str:
    """The smallest type that holds its ids, as numpy writes it: `|u1` or `<u2`."""
    return "|u1" if tokenizer.vocab_size <= 256 else "<u2"


def _encoded(document: Document, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    for text in _stable_text(document):
        yield tokenizer.encode(text)
    yield np.array([tokenizer.separator])


def _stable_text(document: Document) -> Iterator[str]:
    """The text of a document that was found to be text a moment ago."""
    try:
        yield from read_text(document)
    except NotText as reason:
        raise UserError(
            f"{document.path} changed while the corpus was prepared: {reason}",
            "start again when it stands still",
        ) from None


class _Meter:
    """Tells every few seconds how far the corpus has come."""

    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self._total_bytes, self._progress = total_bytes, progress
        self._done_bytes, self._told = 0, time.monotonic()

    def add(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        now = time.monotonic()
        if now - self._told >= PROGRESS_INTERVAL_S:
            self._told = now
            done, total = self._done_bytes / 1e6, self._total_bytes / 1e6
            self._progress(f"corpus: {done:.0f} of {total:.0f} MB tokenised")
