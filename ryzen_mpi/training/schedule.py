"""The learning rate of a step."""

from __future__ import annotations

import math

from ryzen_mpi.config import Training


def learning_rate(step: int, total_steps: int, settings: Training) -> float:
    """Learning rate of 0-based `step`: linear warm-up, then a cosine to the minimum at `total_steps`. Pure.

    Source of the cosine: Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    warmup = min(settings.warmup_steps, total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, total_steps - warmup)
    low = settings.min_learning_rate_ratio
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
