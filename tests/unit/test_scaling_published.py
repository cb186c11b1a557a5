"""The documents' 20.22 times: reproduced from their numbers, taken apart, and refused."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.commands.scale import command
from ryzen_mpi.scaling import published
from ryzen_mpi.scaling.published import Interval

CLAIMED = Interval.of("20.22")


def inside(outer: Interval, inner: Interval) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_one_formula_gives_all_three_published_throughputs(ranks):
    assert inside(published.formula(ranks), Interval.of(published.THROUGHPUT[ranks]))


def test_the_claimed_speedup_follows_from_the_rounded_seconds():
    claimed = published.terms(4).claimed
    assert inside(claimed, CLAIMED)
    assert (claimed.low, claimed.high) == pytest.approx((20.19, 20.32), abs=0.005)


def test_the_published_throughputs_give_a_little_more():
    quotient = published.terms(4).published
    assert quotient.value == pytest.approx(20.239, abs=5e-4) and not quotient.overlaps(CLAIMED)
    assert inside(published.terms(4).claimed, quotient)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_terms_multiply_to_the_claim(ranks):
    terms = published.terms(ranks)
    product = terms.counted * terms.in_turn * terms.start_up
    assert product.value == pytest.approx(terms.claimed.value)
    assert (product.low, product.high) == pytest.approx((terms.claimed.low, terms.claimed.high))
    assert terms.counted.value == terms.in_turn.value == ranks


def test_start_up_and_warm_up_are_a_quarter_of_the_base():
    start_up = published.terms(4).start_up
    assert start_up.value == pytest.approx(1.266, abs=5e-4) and start_up.low > 1.26


def test_what_was_possible_and_what_was_done():
    assert published.balance_bound().high == pytest.approx(0.910, abs=5e-4)
    assert published.speedup_bound().high == pytest.approx(3.64, abs=0.005)
    done = published.really_done()
    assert done.high < 24.05 / 13.775 and done.high >= 24.05 / 13.80
    assert published.in_turn_s().low == pytest.approx(3 * 3.015 + 4.735)
    assert published.true_throughput().high < float(published.THROUGHPUT[4]) / 5


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_no_four_ranks_between_the_two_times_beat_the_bound(shares):
    """Any ranks between 3.02 and 4.74 s, one at each end, whatever was rounded away."""
    least, most = 3.015 + 0.01 * shares[0], 4.735 + 0.01 * shares[1]
    times = [least, *(least + share * (most - least) for share in shares[2:]), most]
    assert sum(times) / 4 / most <= published.balance_bound().high + 1e-12
    assert published.in_turn_s().low - 1e-9 <= sum(times) <= published.in_turn_s().high + 1e-9


def test_the_report_is_invalid_in_the_shape_of_every_report():
    report = published.report()
    assert report["headline"].startswith("INVALID") and "20.22" in report["headline"]
    assert len(report["problems"]) == 6
    for said in ("counted once for each process", "one after the other", "exchanged no gradient", "start-up"):
        assert any(said in problem for problem in report["problems"])
    points = report["strong"]["points"]
    assert [point["ranks"] for point in points] == [1, 2, 4]
    assert points[2]["efficiency"]["low"] > 5 and points[2]["throughput"]["value"] == 270.19
    json.dumps(report, allow_nan=False)


def test_the_command_shows_every_term_and_ends_as_invalid(tmp_path):
    done = CliRunner().invoke(command, ["--published", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    for said in ("20.25 [20.19, 20.32]", "1.266 [1.262, 1.27]", "samples counted P times", "ranks that ran in turn"):
        assert said in done.output
    assert json.loads((tmp_path / "out" / "scaling.json").read_text())["profile"] == "published"
    assert "INVALID" in (tmp_path / "out" / "scaling.md").read_text()
