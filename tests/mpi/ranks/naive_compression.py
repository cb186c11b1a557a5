"""Compressors as their papers have them: all nodes in one process, one element or matrix after the other, in numpy.

A sum takes [nodes, n]: what every node has of one stretch. What a node keeps from sum to sum is in `errors`.
"""

import math

import numpy as np
import torch

from ryzen_mpi.comm.compression.powersgd import first_factors


def rounded(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return torch.from_numpy(values).to(dtype).to(torch.from_numpy(values).dtype).numpy()


class Bfloat16:
    dtype = torch.bfloat16

    def sent(self, values: np.ndarray) -> np.ndarray:
        return rounded(values, self.dtype)

    def sum(self, everyone: np.ndarray) -> np.ndarray:
        total = np.zeros_like(everyone[0])
        for values in everyone:
            total = total + self.sent(values)
        return total


class Float16(Bfloat16):
    dtype = torch.float16

    def sent(self, values: np.ndarray) -> np.ndarray:
        largest = np.abs(values).max()
        scale = 2.0 ** (14 - math.floor(math.log2(largest))) if largest else 1.0
        return rounded(values * scale, self.dtype) / scale


class TopK:
    def __init__(self, share: float, chunk: int) -> None:
        self.share, self.chunk, self.errors = share, chunk, None

    def sum(self, everyone: np.ndarray) -> np.ndarray:
        if self.errors is None:
            self.errors = np.zeros_like(everyone)
        total = np.zeros_like(everyone[0])
        for values, error in zip(everyone, self.errors, strict=True):
            error += values
            for begin in range(0, len(values), self.chunk):
                # a chunk at the end that is shorter has zeros behind it, which nobody chooses before the rest
                there = range(begin, min(begin + self.chunk, len(values)))
                count = max(1, math.ceil(self.chunk * self.share))
                for place in sorted(there, key=lambda place: -abs(error[place]))[:count]:  # noqa: B023
                    sent = rounded(error[place : place + 1], torch.bfloat16)[0]
                    total[place] += sent
                    error[place] -= sent
        return total


class PowerSgd:
    """Of the `number`-th stretch of `count`."""

    def __init__(self, rank: int, number: int, count: int) -> None:
        self.rank, self.number, self.count, self.errors = rank, number, count, None

    def sum(self, everyone: np.ndarray) -> np.ndarray:
        size = everyone.shape[1]
        a = math.isqrt(size)
        b = math.ceil(size / a)
        if self.errors is None:
            self.errors = np.zeros_like(everyone)
            self.q = first_factors(self.count, b, self.rank, torch.float64)[self.number].numpy()
        matrices = []
        for values, error in zip(everyone, self.errors, strict=True):
            padded = np.zeros(a * b)
            padded[:size] = values + error
            matrices.append(padded.reshape(a, b))
        p = gram_schmidt(sum(matrix @ self.q for matrix in matrices))
        factors = [matrix.T @ p for matrix in matrices]
        for matrix, factor, error in zip(matrices, factors, self.errors, strict=True):
            error[:] = (matrix - p @ factor.T).ravel()[:size]
        self.q = sum(factors)
        return (p @ self.q.T).ravel()[:size]


def gram_schmidt(columns: np.ndarray) -> np.ndarray:
    columns = columns.astype(np.float64)
    for number in range(columns.shape[1]):
        for _ in range(2):  # twice is enough
            for before in range(number):
                columns[:, number] -= columns[:, before] @ columns[:, number] * columns[:, before]
        columns[:, number] /= np.linalg.norm(columns[:, number])
    return columns
