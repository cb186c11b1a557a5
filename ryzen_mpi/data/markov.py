"""A Markov chain over tokens: text-like enough to learn, with a floor known in closed form."""

from __future__ import annotations

import numpy as np

from ryzen_mpi.data.source import STRUCTURE, Reference, SyntheticSource, keyed_generator
from ryzen_mpi.errors import UserError

# Share of every transition probability that is spread evenly, so that none vanishes: the power
# iteration and a test's empirical entropies then converge at a bounded rate.
EVEN_SHARE = 0.05
TOLERANCE = 1e-14
MAX_ITERATIONS = 200_000


class MarkovSource(SyntheticSource):
    """Order-1 Markov chain: each token is followed by one of `branching` others, unevenly likely.

    Its stationary distribution pi exists and is unique, because the chain is by construction
    irreducible (one random cycle runs through all states, and each state may step along it) and
    aperiodic (the cycle's first state may follow itself). Samples start from pi, so every position
    of a sample has the same floor, the entropy rate
    H = -sum_i pi_i sum_j P_ij ln P_ij  (Cover & Thomas, Elements of Information Theory, 2nd ed.,
    theorem 4.2.4), which a model reaches by learning the table P from one token of context.

    Args:
        branching: successors of each state, 2 to vocab_size. The others as SyntheticSource.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, vocab_size: int, seq_length: int, num_samples: int, seed: int, branching: int = 4) -> None:
        super().__init__(vocab_size, seq_length, num_samples, seed)
        if not 2 <= branching <= vocab_size:
            raise UserError(f"branching {branching} is out of range", f"2 to the vocabulary size, {vocab_size}")
        generator = keyed_generator(seed, STRUCTURE)
        self.successors = _successors(generator, vocab_size, branching)
        even = np.full(branching, EVEN_SHARE / branching)
        dirichlet = generator.dirichlet(np.ones(branching), size=vocab_size)
        self.probabilities = (1 - EVEN_SHARE) * dirichlet + even
        self.stationary = _stationary(self.successors, self.probabilities)
        self.floor = Reference(
            unigram_entropy=float(_entropy(self.stationary)),
            entropy_rate=float(self.stationary @ _entropy(self.probabilities)),
        )
        # Upper edges without the last one: a uniform number past them all means the last choice,
        # so that rounding in the sum cannot lead outside the table.
        self._start_edges = np.cumsum(self.stationary)[:-1]
        self._step_edges = np.cumsum(self.probabilities, axis=1)[:, :-1]

    def _draw(self, indices: np.ndarray, stream: int) -> np.ndarray:
        uniform = np.empty((len(indices), self.seq_length + 1))
        for row, index in zip(uniform, indices.tolist(), strict=True):
            keyed_generator(self.seed, stream, index).random(out=row)
        tokens = np.empty(uniform.shape, dtype=np.int64)
        tokens[:, 0] = np.searchsorted(self._start_edges, uniform[:, 0], side="right")
        for position in range(1, tokens.shape[1]):
            before = tokens[:, position - 1]
            choice = (uniform[:, position, None] >= self._step_edges[before]).sum(axis=1)
            tokens[:, position] = self.successors[before, choice]
        return tokens

    def describe(self) -> str:
        """One line for the start-up table."""
        return (
            f"Markov chain: {self.num_samples} samples of {self.seq_length}, "
            f"vocabulary {self.vocab_size}, {self.successors.shape[1]} successors a token, "
            f"floor {self.floor.entropy_rate:.4f} nats (entropy rate)"
        )


def _successors(generator: np.random.Generator, states: int, branching: int) -> np.ndarray:
    """Distinct successors of each state, int64 [states, branching]; column 0 is the random cycle."""
    # In cycle coordinates state p steps to p + 1 + d (mod states): d = 0 is the cycle itself, the
    # others are drawn without repetition by Floyd's algorithm (Bentley & Floyd, CACM 30(9), 1987).
    steps = np.zeros((states, branching), dtype=np.int64)
    for column in range(1, branching):
        highest = states - branching + column
        drawn = generator.integers(1, highest + 1, size=states)
        taken = (steps[:, :column] == drawn[:, None]).any(axis=1)
        steps[:, column] = np.where(taken, highest, drawn)
    if not (steps[0] == states - 1).any():
        steps[0, -1] = states - 1
    cycle = generator.permutation(states)
    successors = np.empty_like(steps)
    successors[cycle] = cycle[(np.arange(states)[:, None] + 1 + steps) % states]
    return successors


def _stationary(successors: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The pi with pi P = pi, float64 [states], by power iteration on the lazy chain (P + I) / 2.

    Lazy, because it has the same pi and no eigenvalue near -1; sparse, because a dense solve of a
    32 768-word vocabulary would need 8 GiB.
    """
    states = len(successors)
    pi = np.full(states, 1 / states)
    for _ in range(MAX_ITERATIONS):
        flow = (pi[:, None] * probabilities).ravel()
        after = (pi + np.bincount(successors.ravel(), weights=flow, minlength=states)) / 2
        after /= after.sum()
        moved, pi = np.abs(after - pi).sum(), after
        if moved < TOLERANCE:
            return pi
    raise AssertionError(f"the chain of {states} states did not settle: it still moves by {moved:g}")


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """-sum p ln p over the last axis, in nats."""
    return -(probabilities * np.log(probabilities)).sum(axis=-1)
