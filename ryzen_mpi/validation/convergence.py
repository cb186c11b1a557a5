"""Do P ranks learn what one learns? Curves of both, and what can be said of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.launch import Nodes, launch
from ryzen_mpi.validation.statistics import Equivalence, equivalence
from ryzen_mpi.validation.trainings import Curve, Training, read_curves, write_spec

LOSS_MARGIN, NORM_MARGIN, SPEED_MARGIN = 0.01, 0.01, 0.05
"""What counts as the same (E5): loss and gradient norm within 1 %, convergence speed within 5 %. The control that must
pass and those that must fail are judged by them too."""
CONFIDENCE = 0.90
GLOBAL_BATCH = 48
"""Samples a step: 1, 2, 3, 4, 6, 8, 12 and 16 ranks have equal shares."""
SMOOTH = 5
LEAST_STEPS = 2 * SMOOTH
"""Below, a curve smoothed over SMOOTH steps has no course to deviate from."""
FIRST_SEED = 1000
WORDS = (
    *("data.source=markov", "data.num_samples=1000000", "model.vocab_size=32", "model.embedding_dim=32"),
    *("model.num_heads=2", "model.num_layers=1", "model.feed_forward_dim=64", "model.seq_length=16"),
    *("training.schedule=constant", "training.warmup_steps=0", "training.max_steps=1000000"),
    *("training.learning_rate=0.01", f"training.global_batch={GLOBAL_BATCH}", "distributed.timeout_s=120"),
    # so small a model gains nothing by more; where others use the cores its threads wait for one another: on one rank
    # with two threads, 13 trainings of a few seconds each did not end in three minutes
    "hardware.num_threads=1",
)


def share_words(ranks: int, parts: int = 1) -> tuple[str, ...]:
    """So that a rank's share of the global batch is `parts` micro-batches. Pure."""
    return (f"training.batch_size={max(1, -(-GLOBAL_BATCH // (ranks * parts)))}",)


def deterministic(ranks: int, steps: int) -> Training:
    """In float64, where only rounding at 2^-53 may differ. Pure."""
    return Training("float64", (*share_words(ranks), "hardware.dtype=float64"), steps)


def statistical(
    ranks: int, seeds: int, steps: int, dtype: str, kind: str = "plain", first: int = FIRST_SEED
) -> list[Training]:
    """`seeds` trainings of one kind, from seed `first` on. Pure.

    `kind`: "plain", "again" (the same with other micro-batches), "summed" or "frozen".
    """
    parts = 2 if kind == "again" else 1
    return [
        Training(
            f"{kind} {dtype} {seed}",
            (*share_words(ranks, parts), f"hardware.dtype={dtype}", f"training.seed={first + seed}"),
            steps,
            kind if kind in ("summed", "frozen") else "",
        )
        for seed in range(seeds)
    ]


def train_on(
    ranks: int, trainings: Sequence[Training], words: Sequence[str], folder: Path, limit_s: float, nodes: Nodes | None
) -> dict[str, Curve]:
    """The curves of `trainings` on `ranks` ranks, in a launch of their own. Local. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, answer = folder / f"{ranks}-ranks.json", folder / f"{ranks}-ranks-curves.json"
    answer.unlink(missing_ok=True)
    write_spec(spec, answer, words, trainings)
    ended = launch(ranks, ("-m", "ryzen_mpi.validation.trainings", str(spec)), limit_s, nodes)
    if not answer.exists():
        how = f"was ended after {limit_s:g} s" if ended.timed_out else f"ended with code {ended.code}"
        raise UserError(f"training on {ranks} ranks {how} and left no curves", ended.tail())
    return read_curves(answer)


# -- what is said of them ---------------------------------------------------------------------------------------------


def largest_difference(one: Curve, other: Curve) -> tuple[float, int]:
    """The largest relative difference of two curves' losses, and its step (1-based). NaN is infinitely far. Pure."""
    ours, theirs = np.array(one.losses), np.array(other.losses)
    assert ours.shape == theirs.shape
    with np.errstate(all="ignore"):
        off = np.abs(ours - theirs) / np.abs(theirs)
    off = np.where(np.isfinite(off), off, math.inf)
    return float(off.max()), int(off.argmax()) + 1


@dataclass(frozen=True)
class Comparison:
    """Pairs of curves with the same seed, as log-ratios.

    Attributes:
        loss: of the losses on held-out data.
        norm: of the gradient's norm, mean of the first SMOOTH steps.
        speed: of the steps to the loss halfway down.
    """

    loss: Equivalence
    norm: Equivalence
    speed: Equivalence

    @property
    def same(self) -> bool:
        """Whether loss and gradient are shown to be the same."""
        return self.loss.holds and self.norm.holds


def compare(curves: Sequence[Curve], base: Sequence[Curve]) -> Comparison:
    """`curves` against `base`, pair by pair. Pure."""
    pairs = list(zip(curves, base, strict=True))
    return Comparison(
        _equivalence([(a.held_out, b.held_out) for a, b in pairs], LOSS_MARGIN),
        _equivalence([(np.mean(a.norms[:SMOOTH]), np.mean(b.norms[:SMOOTH])) for a, b in pairs], NORM_MARGIN),
        _equivalence([(_halfway(a, b), _halfway(b, b)) for a, b in pairs], SPEED_MARGIN),
    )


def _equivalence(pairs: Sequence[tuple[float, float]], margin: float) -> Equivalence:
    with np.errstate(all="ignore"):
        ratios = [float(np.log(np.float64(a) / np.float64(b))) for a, b in pairs]
    return equivalence(ratios, math.log1p(margin), CONFIDENCE)


def bound(found: Equivalence) -> float:
    """How far from 1 the ratio may be, at CONFIDENCE: the larger end of its interval. Pure."""
    return math.expm1(max(abs(found.low), abs(found.high)))


def smooth(losses: Sequence[float]) -> np.ndarray:
    """Means of SMOOTH steps. Pure."""
    return np.convolve(losses, np.ones(SMOOTH) / SMOOTH, mode="valid")


def steps_to(level: float, losses: Sequence[float]) -> float:
    """Steps until the smoothed loss is at `level`, between two in proportion; infinite where it never is. Pure."""
    curve = smooth(losses)
    below = np.flatnonzero(curve <= level)
    if not len(below):
        return math.inf
    first = int(below[0])
    if first == 0:
        return 1.0
    before, after = curve[first - 1], curve[first]
    return first + float((before - level) / (before - after))


def _halfway(curve: Curve, base: Curve) -> float:
    down = smooth(base.losses)
    return steps_to(float(down[0] + down[-1]) / 2, curve.losses)


def rise(curve: Curve) -> float:
    """How far the smoothed loss ends above its lowest, relative: 0 while it falls. NaN is infinite. Pure."""
    down = smooth(curve.losses)
    return float(down[-1] / down.min() - 1) if np.isfinite(down).all() else math.inf


def roughness(curve: Curve) -> float:
    """The deviation of the loss from its smoothed course, relative: what an oscillation raises. Pure."""
    down = smooth(curve.losses)
    middle = np.array(curve.losses[SMOOTH // 2 : SMOOTH // 2 + len(down)])
    return float(np.std(middle / down - 1))


def gap(curve: Curve) -> float:
    """How far the held-out loss lies above that of the last SMOOTH training steps, relative. Pure."""
    return curve.held_out / float(smooth(curve.losses)[-1]) - 1
