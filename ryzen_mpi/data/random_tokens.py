"""Uniform random tokens: nothing to learn, nothing to read; for measuring speed."""

from __future__ import annotations

import math

import numpy as np

from ryzen_mpi.data.source import Reference, SyntheticSource, keyed_generator


class RandomTokens(SyntheticSource):
    """Each token drawn uniformly and independently; no model gets below ln(vocab_size).

    Arguments and errors as SyntheticSource.
    """

    def __init__(self, vocab_size: int, seq_length: int, num_samples: int, seed: int) -> None:
        super().__init__(vocab_size, seq_length, num_samples, seed)
        entropy = math.log(vocab_size)
        self.floor = Reference(unigram_entropy=entropy, entropy_rate=entropy)

    def _draw(self, indices: np.ndarray, stream: int) -> np.ndarray:
        tokens = np.empty((len(indices), self.seq_length + 1), dtype=np.int64)
        for row, index in zip(tokens, indices.tolist(), strict=True):
            row[:] = keyed_generator(self.seed, stream, index).integers(self.vocab_size, size=row.size)
        return tokens

    def describe(self) -> str:
        """One line for the start-up table."""
        return (
            f"random tokens: {self.num_samples} samples of {self.seq_length}, "
            f"vocabulary {self.vocab_size}, floor {self.floor.entropy_rate:.4f} nats (ln V)"
        )
