"""Samples of real text: windows of a prepared token file, mapped into memory, never loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ryzen_mpi.data.prepared import HELD_OUT_FILE, REBUILD_HINT, TRAIN_FILE, TextCorpus
from ryzen_mpi.data.source import Reference, checked_indices
from ryzen_mpi.data.tokenizer import load_tokenizer
from ryzen_mpi.errors import UserError

SHARED_HINT = "the run directory must lie on a file system that all nodes share"


class TextSource:
    """A TokenSource over a prepared corpus.

    Sample i is the window of seq_length tokens that starts at token i * seq_length, and the token
    after it as the last target: windows do not overlap, and num_samples = (n - 1) // seq_length.

    Args:
        directory: where the corpus was prepared.
        corpus: its description.
        seq_length: tokens a sample trains.

    Raises:
        UserError: the training or the held-out tokens are fewer than one sample.
    """

    def __init__(self, directory: Path, corpus: TextCorpus, seq_length: int) -> None:
        self.corpus = corpus
        self.seq_length = seq_length
        self.tokenizer = load_tokenizer(corpus.tokenizer, directory)
        if self.tokenizer.vocab_size != corpus.vocab_size:
            raise UserError(f"the tokenizer in {directory} is not the corpus's", REBUILD_HINT)
        self.vocab_size = corpus.vocab_size
        self.num_samples = windows(corpus.train_tokens, seq_length)
        self.num_held_out = windows(corpus.held_out_tokens, seq_length)
        if not (self.num_samples and self.num_held_out):
            raise UserError(
                f"the corpus in {directory} has {corpus.train_tokens} training and "
                f"{corpus.held_out_tokens} held-out tokens, less than a sample of {seq_length} + 1 in each",
                "take a shorter sequence length or more text",
            )
        # Of the entropy rate of real text there is no closed form.
        self.floor = Reference(unigram_entropy=corpus.unigram_entropy, entropy_rate=None)
        self.train_tokens = np.memmap(directory / TRAIN_FILE, dtype=corpus.dtype, mode="r")
        self.held_out_tokens = np.memmap(directory / HELD_OUT_FILE, dtype=corpus.dtype, mode="r")

    def sample(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Training windows: int64 [len(indices), seq_length + 1]; local."""
        return self._windows(self.train_tokens, checked_indices(indices, self.num_samples))

    def held_out(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Held-out windows: int64 [len(indices), seq_length + 1]; local."""
        return self._windows(self.held_out_tokens, checked_indices(indices, self.num_held_out))

    def _windows(self, tokens: np.ndarray, indices: np.ndarray) -> np.ndarray:
        samples = np.empty((len(indices), self.seq_length + 1), dtype=np.int64)
        for row, start in zip(samples, (indices * self.seq_length).tolist(), strict=True):
            row[:] = tokens[start : start + row.size]
        return samples

    def encode(self, text: str) -> np.ndarray:
        """Token ids of any text: int64 [n]."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(ids)

    def describe(self) -> str:
        """One line for the start-up table."""
        corpus = self.corpus
        left_out = f", {corpus.left_out_files} left out" if corpus.left_out_files else ""
        return (
            f"text: {corpus.documents} files{left_out}, {corpus.corpus_bytes / 1e6:.1f} MB, "
            f"tokenizer {corpus.tokenizer} (vocabulary {corpus.vocab_size}), "
            f"{corpus.train_tokens} training and {corpus.held_out_tokens} held-out tokens, "
            f"{self.num_samples} samples of {self.seq_length}, "
            f"unigram entropy {corpus.unigram_entropy:.4f} nats"
        )


def windows(tokens: int, seq_length: int) -> int:
    """Samples that a stream of tokens gives: each needs the token after its window as a target."""
    return max(0, tokens - 1) // seq_length


def open_text(directory: str | Path, seq_length: int) -> TextSource:
    """Map a prepared corpus; local and cheap, any number of ranks at once: checks sizes, not hashes.

    Raises:
        UserError: it is not there, not finished, damaged, or shorter than a sample.
    """
    directory = Path(directory)
    try:
        if not directory.is_dir():
            raise UserError(f"the prepared corpus {directory} is not there", SHARED_HINT)
        corpus = TextCorpus.load(directory)
        if damage := corpus.wrong_size(directory):
            raise UserError(f"the prepared corpus {directory} is damaged: {damage}", REBUILD_HINT)
        return TextSource(directory, corpus, seq_length)
    except OSError as error:
        raise UserError(f"cannot read the prepared corpus {directory}: {error}", SHARED_HINT) from error
