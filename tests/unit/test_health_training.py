"""The rules of losses, gradients and weights: finite, spike, divergence, sync."""

from __future__ import annotations

import math

import numpy as np
import pytest
from health_looks import BATCH, acts_of, look, run, told

from ryzen_mpi.health.rules.divergence import MOST_ROLL_BACKS, Divergence
from ryzen_mpi.health.rules.finite import Finite
from ryzen_mpi.health.rules.spike import Spike, foremost
from ryzen_mpi.health.rules.sync import Sync, minority

NAN, INF = math.nan, math.inf


def own(**of_rank: float) -> np.ndarray:
    """Norms of the ranks' own gradients: 1, but of some."""
    values = np.ones(4)
    for rank, value in of_rank.items():
        values[int(rank[1:])] = value
    return values


# -- finite -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rank", "words"),
    [
        ({"rank_loss": own(r2=NAN)}, 2, "from rank 2"),
        ({"rank_gradient_norm": own(r1=INF)}, 1, "from rank 1"),
        ({"rank_loss": own(r3=NAN), "rank_gradient_norm": np.full(4, NAN)}, 3, "from rank 3"),
        ({"rank_gradient_norm": own(r1=INF, r3=NAN)}, -1, "from ranks 1, 3"),
        ({"rank_gradient_norm": np.full(4, NAN)}, -1, "no rank's own part"),
        ({"finite": own(r0=0.0)}, 0, "from rank 0"),
    ],
)
def test_what_is_not_finite_is_skipped_and_named_by_what_is_a_ranks_own(changes, rank, words):
    broken = {"finite": np.zeros(4), "gradient_norm": NAN} | changes
    acts = acts_of(Finite(), [look(4), look(5, **broken), look(6)])
    assert told(acts) == [(5, "skip", rank)] and words in acts[0].evidence
    assert acts[0].node == ("" if rank < 0 else look(5).hosts[rank])


def test_one_rank_alone_is_named_without_more():
    assert told(acts_of(Finite(), [look(3, ranks=1, loss=INF)])) == [(3, "skip", 0)]


# -- spike ------------------------------------------------------------------------------------------------------------


def test_a_spike_is_skipped_and_does_not_hide_the_next():
    looks = run(range(1, 200), loss=lambda step: 2.0 + 0.01 * (step % 5) + (1.5 if step in (100, 130) else 0))
    assert told(acts_of(Spike(), looks)) == [(100, "skip", -1), (130, "skip", -1)]


def test_the_rank_whose_gradient_stands_out_is_named_with_its_node():
    spoilt = look(60, gradient_norm=5.0, rank_gradient_norm=own(r2=10.0))
    acts = acts_of(Spike(), [*run(range(1, 60)), spoilt])
    assert told(acts) == [(60, "skip", 2)]
    assert acts[0].node == "node2" and "rank 2 on node2 is 10 times" in acts[0].evidence


def test_a_ranks_gradient_that_hardly_moves_the_global_one_is_let_pass():
    harder = look(60, gradient_norm=1.1, rank_gradient_norm=own(r2=10.0))
    assert acts_of(Spike(), [*run(range(1, 60)), harder]) == []


def test_large_gradients_of_all_ranks_with_the_usual_loss_are_clipped_and_not_skipped():
    looks = run(range(1, 200), gradient_norm=lambda step: 8.0 if step in (100, 107, 108) else 1.0 + 0.1 * (step % 3))
    assert acts_of(Spike(), looks) == []
    assert told(acts_of(Spike(), [*run(range(1, 100)), look(100, gradient_norm=100.0)])) == [(100, "skip", -1)]
    assert told(acts_of(Spike(), [*run(range(1, 100)), look(100, gradient_norm=8.0, loss=2.3)])) == [(100, "skip", -1)]


def test_a_rank_whose_gradient_is_large_now_and_then_is_skipped_only_when_it_is_larger_than_before():
    large = {60: 10.0, 61: 10.0, 100: 12.0, 140: 30.0, 180: 9.0}
    looks = run(
        range(1, 200),
        gradient_norm=lambda step: large.get(step, 2.0) / 2,
        rank_gradient_norm=lambda step: own(r1=large.get(step, 1.0 + 0.1 * (step % 3))),
    )
    assert told(acts_of(Spike(), looks)) == [(60, "skip", 1), (61, "skip", 1), (140, "skip", 1)]


def test_several_ranks_with_large_gradients_are_no_ranks_fault_and_one_ranks_are_no_divergence():
    rule = Spike()
    assert acts_of(rule, [*run(range(1, 60)), look(60, gradient_norm=8.0, rank_gradient_norm=own(r1=12, r3=12))]) == []
    assert acts_of(rule, [look(61, gradient_norm=5.0, rank_gradient_norm=own(r1=10.0))])
    assert not rule.newest_was_bad()
    assert acts_of(rule, [look(62, loss=5.0)]) and rule.newest_was_bad()


def test_from_the_first_step_on_ranks_are_compared_with_one_another():
    assert told(acts_of(Spike(), [look(1), look(2, rank_gradient_norm=own(r1=10.0))])) == [(2, "skip", 1)]


def test_the_steep_fall_of_early_training_neither_alarms_nor_hides_a_spike():
    def loss(step):
        return 2.0 + 8.0 * math.exp(-step / 20) + 0.01 * (step % 5)

    assert acts_of(Spike(), run(range(1, 300), loss=loss)) == []
    spiked = [*run(range(1, 40), loss=loss), look(40, loss=loss(40) + 1.5, gradient_norm=2.0)]
    assert told(acts_of(Spike(), spiked)) == [(40, "skip", -1)]
    alone = run(range(1, 61), loss=lambda step: loss(step) + (1.5 if step == 60 else 0))
    assert told(acts_of(Spike(), alone)) == [(60, "skip", -1)]


def test_a_lasting_shift_of_level_is_not_skipped_for_ever():
    rule = Spike()
    looks = run(range(1, 300), loss=lambda step: 2.0 + 0.01 * (step % 5) + (1.5 if step >= 100 else 0))
    assert told(acts_of(rule, looks)) == [(100, "skip", -1), (101, "skip", -1), (102, "skip", -1)]
    again = run(range(300, 320), loss=lambda step: 6.0)
    assert told(acts_of(rule, again))[0] == (300, "skip", -1)  # the new level is judged like the old one


def test_after_going_back_the_levels_are_learnt_anew():
    rule = Spike()
    acts_of(rule, run(range(1, 200)))
    assert acts_of(rule, run(range(50, 100), loss=lambda step: 4.0)) == []


def test_the_foremost_rank_is_measured_against_the_next():
    assert foremost(np.array([1.0, 8.0, 2.0, 4.0])) == (1, pytest.approx(math.log(2)))
    assert foremost(np.array([NAN, 8.0, 0.0, INF])) == (-1, -INF)
    assert foremost(np.array([5.0, NAN, 1.0])) == (0, pytest.approx(math.log(5)))


# -- divergence -------------------------------------------------------------------------------------------------------


class Bad:
    """Tells divergence which steps were bad."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.step = set(steps), 0

    def rule(self) -> Divergence:
        return Divergence(lambda: self.step in self.steps)

    def acts(self, rule: Divergence, steps, **changes):
        found = []
        for one in run(steps, **changes):
            self.step = one.step
            found += rule.look(one)
        return found


def test_three_bad_steps_lower_the_rate_and_three_more_roll_back_round_all_of_them():
    bad = Bad(100, 102, 105, 110, 111, 112)
    lower, back = bad.acts(bad.rule(), range(1, 200))
    assert (lower.step, lower.kind, lower.figures["factor"]) == (105, "lower_rate", 0.5)
    assert (back.step, back.kind) == (112, "roll_back")
    assert back.figures["before_step"] == 100 and back.figures["from_position"] == 99 * BATCH
    assert back.figures["to_position"] == 112 * BATCH  # behind the last of them


def test_bad_steps_far_from_one_another_are_no_divergence():
    bad = Bad(*range(30, 400, 10))
    assert bad.acts(bad.rule(), range(1, 400)) == []


def test_bad_steps_long_after_the_first_answer_do_not_roll_back_to_before_that():
    bad = Bad(100, 101, 102, 400, 401, 402)
    _, back = bad.acts(bad.rule(), range(1, 450))
    assert back.kind == "roll_back" and back.figures["before_step"] == 400


def test_after_so_many_calm_steps_it_is_a_first_time_again():
    bad = Bad(100, 101, 102, 700, 701, 702)
    assert [act.kind for act in bad.acts(bad.rule(), range(1, 750))] == ["lower_rate", "lower_rate"]


def test_after_some_roll_backs_a_person_is_asked_once():
    bad = Bad(*range(100, 160))
    kinds = [act.kind for act in bad.acts(bad.rule(), range(1, 200))]
    assert kinds == ["lower_rate", *["roll_back"] * MOST_ROLL_BACKS, "warn"]


def test_a_loss_that_stays_raised_is_a_slow_divergence():
    bad = Bad()
    acts = bad.acts(bad.rule(), range(1, 400), loss=lambda step: 2.0 if step < 200 else 2.0 + 0.02 * (step - 200))
    assert acts[0].kind == "lower_rate" and 200 < acts[0].step <= 200 + 10 + 5 * 16
    assert acts[1].kind == "roll_back"


def test_new_data_that_is_learnt_is_none():
    bad = Bad()
    loss = lambda step: 2.0 if step < 200 else 2.0 + 1.5 * math.exp(-(step - 200) / 150)  # noqa: E731
    assert bad.acts(bad.rule(), range(1, 1000), loss=loss) == []


# -- sync -------------------------------------------------------------------------------------------------------------


def test_the_rank_whose_weights_differ_from_most_is_named():
    acts = acts_of(Sync(), [look(10, weights=[7, 7, 7, 7], compared=9), look(20, weights=[7, 7, 8, 7], compared=19)])
    assert told(acts) == [(20, "roll_back", 2)]
    assert acts[0].figures["compared"] == 19 and acts[0].figures["weights"] == "7, 7, 8, 7"


@pytest.mark.parametrize(
    ("weights", "ranks"), [([1, 2], []), ([1, 1, 2, 2], []), ([1, 1, 2, 3], [2, 3]), ([5, 5], []), ([2, 1, 1], [0])]
)
def test_a_tie_names_nobody(weights, ranks):
    assert minority(weights) == ranks
    acts = acts_of(Sync(), [look(20, ranks=len(weights), weights=weights, compared=19)])
    assert [act.rank for act in acts] == ([] if len(set(weights)) == 1 else ranks if len(ranks) == 1 else [-1])
