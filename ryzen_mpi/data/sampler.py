"""Which samples a step trains: a shuffled stream that anyone can enter anywhere, without state."""

from __future__ import annotations

import math

import numpy as np

from ryzen_mpi.errors import UserError

MAX_SAMPLES = 2**48
ROUNDS = 8
# At least 8 x 8 points: on fewer, the network's few distinct round functions make a visible bias.
MIN_SIDE = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Sampler:
    """The endless concatenation of one pseudo-random permutation of the samples per epoch.

    What stands at a stream position depends on (num_samples, seed, position) and nothing else:
    not on the number of processes, the batch size, or what was asked before. So a run that is
    resumed, or resized in the middle of an epoch, goes on with exactly the samples that are left.
    Memory and time grow with the positions asked for, never with num_samples.

    Method: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002. Their generalised
    Feistel network, over pairs from range(a) x range(b) with addition in place of xor, permutes
    range(a * b). With a and b near sqrt(num_samples) that is hardly more than num_samples, where
    halves of whole bits would be up to four times as many. What still lands outside of
    range(num_samples) is permuted again until it lands inside: their cycle walking. The round
    function is splitmix64's finaliser (Steele, Lea & Flood, OOPSLA 2014).

    Args:
        num_samples: samples per epoch, 1 to 2**48.
        seed: 0 to 2**64 - 1.

    Raises:
        UserError: either is out of its range.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise UserError(
                f"cannot sample from {num_samples} training samples",
                f"between 1 and {MAX_SAMPLES} are possible",
            )
        if not 0 <= seed < 2**64:
            raise UserError(f"seed {seed} is out of range", "0 to 2**64 - 1")
        self.num_samples = num_samples
        self.seed = seed
        side = max(MIN_SIDE, math.isqrt(num_samples - 1) + 1)
        self._a = np.uint64(side)
        self._b = np.uint64(max(MIN_SIDE, -(-num_samples // side)))

    def indices(self, position: int, count: int) -> np.ndarray:
        """Sample indices at stream positions [position, position + count); local, pure.

        Returns:
            int64 array of shape [count], each in range(num_samples). Positions e * num_samples
            to (e + 1) * num_samples - 1 (epoch e) hold every index exactly once.

        Raises:
            ValueError: position or count is negative, or the end lies beyond 2**63.
        """
        if position < 0 or count < 0 or position + count > 2**63 - 1:
            raise ValueError(f"no stream positions [{position}, {position} + {count})")
        positions = np.arange(position, position + count, dtype=np.uint64)
        epochs, values = np.divmod(positions, np.uint64(self.num_samples))
        keys = self._round_keys(epochs)
        values = self._permute(values, keys)
        outside = np.flatnonzero(values >= self.num_samples)
        while outside.size:
            values[outside] = self._permute(values[outside], keys[:, outside])
            outside = outside[values[outside] >= self.num_samples]
        return values.astype(np.int64)

    def _round_keys(self, epochs: np.ndarray) -> np.ndarray:
        """The key of each round at each of the given positions' epochs: uint64 [ROUNDS, positions]."""
        each, which = np.unique(epochs, return_inverse=True)
        # The seed is mixed before the epoch is added: seed s, epoch 1 must not be seed s + 1, epoch 0.
        seed = _mix(np.array([self.seed], dtype=np.uint64) + GOLDEN)
        rounds = np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None] * GOLDEN
        return _mix(_mix(seed + each * GOLDEN) + rounds)[:, which]

    def _permute(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """One pass through the network: a permutation of range(a * b) for each column of keys."""
        right, left = np.divmod(values, self._a)
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            # Reduced before it is added: a sum past 2**64 would wrap, and not modulo a.
            left = (left + _mix(right ^ even) % self._a) % self._a
            right = (right + _mix(left ^ odd) % self._b) % self._b
        return right * self._a + left


def rank_slice(count: int, rank: int, size: int) -> slice:
    """The contiguous share of a global batch of `count` samples that `rank` of `size` trains.

    Returns:
        slice into the batch; the slices of ranks 0..size-1 follow one another and cover it. Their
        lengths differ by at most one, the longer ones first; empty where count <= rank.

    Raises:
        ValueError: count is negative or rank is not in range(size).
    """
    if count < 0 or not 0 <= rank < size:
        raise ValueError(f"no share of {count} samples for rank {rank} of {size}")
    share, longer = divmod(count, size)
    start = rank * share + min(rank, longer)
    return slice(start, start + share + (rank < longer))


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every input bit flips every output bit with probability near 1/2."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
