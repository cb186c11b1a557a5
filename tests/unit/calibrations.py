"""Calibrations for tests: by hand, and launches as a machine of known figures would answer."""

import numpy as np

from ryzen_mpi.config import Settings
from ryzen_mpi.scaling.calibration import Calibration, Parameters, relevant

SHARES = (4, 8, 16, 32)


def settings(**changes) -> Settings:
    """The documents' benchmark; `training__batch_size=3` changes a key."""
    tree = {
        "model": dict(vocab_size=2048, embedding_dim=256, num_layers=2, feed_forward_dim=512, seq_length=128),
        "training": dict(batch_size=16, optimizer="adam"),
        "data": dict(source="random"),
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tree.setdefault(section, {})[name] = value
    return Settings.model_validate(tree)


def by_hand(**changes) -> Calibration:
    """10 ms a sample, 20 ms a step, 2 % for each neighbour, a network of 20 us and 10 Gbit/s."""
    given = {
        "step_s": {share: 0.02 + 0.01 * share for share in SHARES},
        "update_s": 0.01,
        "contention": {"value": 0.02, "low": 0.01, "high": 0.03},
        "node_latency_s": 1e-5,
        "node_s_per_byte": 1e-10,
        "network_latency_s": 2e-5,
        "network_s_per_byte": 8e-10,
        "overhead_s": 1e-3,
        "straggler_quantiles": (-0.05, -0.02, 0.0, 0.02, 0.1),
        "launch_spread": 0.02,
        "compression_s_per_byte": {"bfloat16": 1e-10, "topk": 1e-9},
        "checkpoint_s": 0.5,
    }
    return Calibration(0.0, {"cpu": "by hand"}, {}, 1, 4, 64 << 30, (), Parameters.model_validate(given | changes))


def launches(
    random, count=3, contention=0.1, noise=0.01, spread=0.0, rounds=20, steps=3, overhead=2e-3, line=(2e-5, 1e-9)
) -> list[dict]:
    """Answers of `probe` from a machine of these figures, whose step takes 20 ms and 10 ms a sample."""
    found = []
    for _ in range(count):
        for ranks in (1, 2):
            found.append(_answer(random, ranks, contention, noise, spread, rounds, steps, overhead, line))
    return found


def _answer(random, ranks, contention, noise, spread, rounds, steps, overhead, line):
    pace, cells = np.exp(spread * random.standard_normal()), {}
    for share in SHARES:
        usual = pace * (0.02 + 0.01 * share) * (1 + contention * (ranks - 1))
        own = usual * np.exp(noise * random.standard_normal((ranks, rounds, steps)))
        cells[f"{'alone' if ranks == 1 else 'beside'}:{share}"] = _cell(own, own.max(axis=0).mean(axis=1))
        if ranks == 2:
            both = usual * np.exp(noise * random.standard_normal((ranks, rounds, steps))).max(axis=0)
            whole = both + overhead + line[0] + line[1] * GRADIENT_BYTES
            cells[f"together:{share}"] = _cell(np.stack([whole, whole]), whole.mean(axis=1))
    rows = [{"bytes": size, "s": [line[0] + line[1] * size] * 5} for size in (65536, 1 << 20, 8 << 20)]
    facts = {"ranks": ranks, "nodes": 1, "threads": 1, "machine": {"cpu": "planted"}, "cells": cells}
    return facts | {"update_s": [0.004] * 9, "collective": rows if ranks == 2 else []}


GRADIENT_BYTES = 5 << 20


def _cell(own, turns):
    return {"rank_s": own.tolist(), "turn_s": turns.tolist(), "waited_share": 0.0}


def measured(random, **figures) -> Calibration:
    return Calibration(1.0, {"cpu": "planted"}, relevant(settings()), 1, 2, 8 << 30, tuple(launches(random, **figures)))
