"""What training reads from: the TokenSource protocol, and what the synthetic sources share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ryzen_mpi.errors import UserError


@dataclass(frozen=True)
class Reference:
    """Losses, in nats per token, that a training curve can be held against.

    Args:
        unigram_entropy: what a model reaches that knows only how often each token occurs; a model
            that learns anything from context goes below it. None: not known.
        entropy_rate: the floor; no model goes below it on average. None: not known.
    """

    unigram_entropy: float | None
    entropy_rate: float | None


class TokenSource(Protocol):
    """Samples of tokens, addressed by index; every method is local and pure.

    Attributes:
        vocab_size: number of token ids that can occur; ids are in range(vocab_size).
        seq_length: tokens a sample trains.
        num_samples: training samples in an epoch.
        num_held_out: samples that are never trained, for evaluation.
        floor: known reference losses, or None.
    """

    vocab_size: int
    seq_length: int
    num_samples: int
    num_held_out: int
    floor: Reference | None

    def sample(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Training samples: int64 [len(indices), seq_length + 1]; inputs [:, :-1], targets [:, 1:]."""
        ...

    def held_out(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Held-out samples: shape and type as `sample`."""
        ...

    def describe(self) -> str:
        """One line for the start-up table."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text: int64 [n]. Raises UserError where the text cannot be tokens here."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids."""
        ...


# Synthetic sources draw three streams from one seed that share no random number.
TRAINING, HELD_OUT, STRUCTURE = range(3)
HELD_OUT_SAMPLES = 256


def keyed_generator(seed: int, stream: int, index: int = 0) -> np.random.Generator:
    """A generator that depends on (seed, stream, index) only.

    Philox is counter-based (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011):
    different keys give independent streams at once, without skipping ahead.
    """
    # As uint64 from the start: numpy makes float64 of a list that mixes a seed over 2**63 with small
    # numbers, and every such seed became the same one.
    key = np.array([seed, (stream << 48) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def checked_indices(indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Indices as int64 [n]; IndexError where one is not in range(count) (negative ones do not wrap)."""
    checked = np.asarray(indices, dtype=np.int64).reshape(-1)
    if checked.size and not 0 <= checked.min() <= checked.max() < count:
        raise IndexError(f"sample indices must be in [0, {count}), got {checked.min()}..{checked.max()}")
    return checked


class SyntheticSource:
    """The half of a TokenSource that sources without a text share; tokens are shown as numbers.

    Args:
        vocab_size: token ids, 2 to 2**31 - 1.
        seq_length: tokens a sample trains, at least 1.
        num_samples: training samples per epoch, 1 to 2**48.
        seed: 0 to 2**64 - 1.

    Raises:
        UserError: an argument is out of its range.
    """

    floor: Reference | None = None

    def __init__(self, vocab_size: int, seq_length: int, num_samples: int, seed: int) -> None:
        _check_range("vocab_size", vocab_size, 2, 2**31 - 1)
        _check_range("seq_length", seq_length, 1, 2**31 - 1)
        _check_range("num_samples", num_samples, 1, 2**48)
        _check_range("seed", seed, 0, 2**64 - 1)
        self.vocab_size = vocab_size
        self.seq_length = seq_length
        self.num_samples = num_samples
        self.num_held_out = HELD_OUT_SAMPLES
        self.seed = seed

    def sample(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Training samples: int64 [len(indices), seq_length + 1]; sample i depends on (seed, i) only."""
        return self._draw(checked_indices(indices, self.num_samples), TRAINING)

    def held_out(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `sample`, from random numbers that training never sees."""
        return self._draw(checked_indices(indices, self.num_held_out), HELD_OUT)

    def _draw(self, indices: np.ndarray, stream: int) -> np.ndarray:
        raise NotImplementedError

    def encode(self, text: str) -> np.ndarray:
        """Numbers separated by blanks or commas: int64 [n]; UserError for anything else."""
        try:
            ids = np.array([int(word) for word in text.replace(",", " ").split()], dtype=np.int64)
        except (ValueError, OverflowError):
            ids = np.array([-1])
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise UserError(
                f"not tokens of this data source: {text!r}",
                f"it has no text; give numbers from 0 to {self.vocab_size - 1}, such as '3 1 4'",
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The ids as numbers, separated by blanks."""
        return " ".join(str(int(token)) for token in np.asarray(ids).reshape(-1))


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} {value} is out of range", f"{low} to {high}")
