"""What is said of a run that was hit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ryzen_mpi.validation.checks.reliability import findings
from ryzen_mpi.validation.recovering import Kill, Recovered

LOSSES = np.linspace(3, 1, 100)
GOOD = Recovered(
    kills=[Kill(0, 0.5, 4.0, 3), Kill(1, 0.7, 5.0, 0)],
    ranks=4,
    resize_s=12.0,
    resized=8,
    same_ranks_until=60,
    steps=100,
    losses=LOSSES,
    undisturbed=LOSSES * (1 + 1e-15 * (np.arange(100) >= 60)),
    compared=3,
    equal=3,
    round_trips=10,
    tried=10,
)


def values(found) -> dict:
    return {figure.name: figure.value for figure in found.figures}


def test_a_recovered_run_has_its_times_and_the_same_losses():
    found = findings(GOOD, cores=2)
    figures = values(found)
    assert found.problems == []
    assert (figures["kill_recovery_s"], figures["kill_detected_s"], figures["ranks_after_kill"]) == (5.0, 0.7, 4)
    assert figures["recovered_loss_difference"] == 0 and 0 < figures["resized_loss_difference"] < 1e-14
    assert figures["recovered_checkpoints_equal"] == figures["checkpoint_round_trips"] == 1
    assert figures["partition_recovery_s"] is None
    assert "oversubscribed: 8 ranks on 2 cores" in next(f.why for f in found.figures if f.name == "resize_s")


def test_a_loss_that_is_another_after_a_recovery_is_found():
    losses = LOSSES.copy()
    losses[40] = np.nextafter(losses[40], 9.0)
    assert 0 < values(findings(dataclasses.replace(GOOD, losses=losses), 8))["recovered_loss_difference"] < 1e-15


@pytest.mark.parametrize("losses", [LOSSES[:50], np.where(np.arange(100) == 20, np.nan, LOSSES)])
def test_losses_that_are_missing_or_no_numbers_are_infinitely_far(losses):
    figures = values(findings(dataclasses.replace(GOOD, losses=losses), 8))
    assert figures["recovered_loss_difference"] == float("inf")


def test_checkpoints_that_differ_are_problems():
    found = findings(dataclasses.replace(GOOD, equal=2, round_trips=9), 8)
    assert len(found.problems) == 2 and values(found)["checkpoint_round_trips"] == 0.9


def test_without_a_kill_nothing_is_said_of_recovery():
    figures = values(findings(dataclasses.replace(GOOD, kills=[]), 8))
    assert figures["kill_recovery_s"] is None and figures["ranks_after_kill"] is None
