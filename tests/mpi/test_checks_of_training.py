"""Checks of training on real ranks: silent where all is well, and each planted fault found and named."""

import json
import re

import pytest
from launch import HERE, mpirun, run

RANKS = 3


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every check of planted_checks.py found, by case."""
    folder = tmp_path_factory.mktemp("checks")
    variables = {"OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
    run(mpirun(RANKS, str(HERE / "planted_checks.py"), str(folder)), folder, **variables).succeeded()
    return {path.stem: Found(json.loads(path.read_text())) for path in folder.glob("*.json")}


class Found:
    def __init__(self, content):
        self.problems = content["problems"]
        self.figures = {figure["name"]: figure for figure in content["figures"]}

    def value(self, name):
        return self.figures[name]["value"]


@pytest.mark.parametrize("case", ["healthy gradient_sync", "healthy gloo", "healthy zero"])
def test_healthy_gradients_are_equal_and_within_every_bound(found, case):
    healthy = found[case]
    assert healthy.problems == []
    assert (healthy.value("rank_difference"), healthy.value("steps_equal")) == (0, 1)
    assert healthy.figures["rank_difference"]["n"] == 8
    assert 0 < healthy.value("reduction_error") <= 1
    assert 0 < healthy.value("reference_error") < 1e-5 and healthy.value("reference_error_share") < 0.1
    assert 0 < healthy.value("bf16_error") < 0.1 and healthy.value("bf16_error_share") < 0.5
    assert healthy.value("allclose_share") == 1 and healthy.value("bf16_agreement") > 0.999
    if case == "healthy zero":
        assert healthy.value("gradient_norm_difference") is None
    else:
        assert healthy.value("gradient_norm_difference") == 0


def test_healthy_steps_are_counted_and_added_up_over_runs(found):
    first, second = found["healthy sync_accuracy"], found["healthy sync_accuracy again"]
    assert (first.value("clean_steps"), second.value("clean_steps")) == (60, 120)
    assert (first.value("accuracy"), second.value("accuracy"), first.problems, second.problems) == (1, 1, [], [])
    assert second.value("accuracy_bound") == pytest.approx(0.05 ** (1 / 120))
    assert "29956 clean steps, 29836 more" in second.figures["accuracy_bound"]["why"]


def test_healthy_reductions_and_accumulation_are_exact(found):
    corruption, accumulation = found["healthy silent_corruption"], found["healthy accumulation"]
    assert (corruption.value("wrong_elements"), corruption.problems) == (0, [])
    assert corruption.figures["wrong_elements"]["n"] == 60 and corruption.value("verified_bytes") > 1e8
    assert accumulation.problems == [] and accumulation.value("effective_batch") == 4096
    assert [accumulation.value(f"samples_{name}") for name in ("missing", "twice")] == [0, 0]
    assert accumulation.value("gradient_error_share") < 0.1 and accumulation.value("reduction_error") <= 1
    assert accumulation.value("rank_difference") == 0


def test_a_rank_that_is_off_by_one_ulp_is_named_with_step_and_element(found):
    case = found["one ulp"]
    assert case.value("rank_difference") == 1 and case.value("steps_equal") == pytest.approx(2 / 3)
    weights = [text for text in case.problems if "in weights" in text]
    assert len(weights) == 1, case.problems
    assert re.search(r"rank 1 differs from rank 0 at step 3 in weights element 70 \(\S+\[\d+\]\)", weights[0])
    assert "1 elements, up to 1 ulp" in weights[0]


def test_a_bit_that_is_wrong_on_all_ranks_is_no_difference_but_no_sum_either(found):
    case = found["a bit on all ranks"]
    assert (case.value("rank_difference"), case.value("steps_equal")) == (0, 1)
    assert case.value("reduction_error") > 100
    assert "not the sum of what the ranks handed over" in case.problems[0]


def test_a_bit_that_is_wrong_on_one_rank_is_found_in_the_gradient(found):
    case = found["a bit on one rank"]
    assert "rank 1 differs from rank 0 at step 1 in gradient element 70" in case.problems[0]
    assert "1 elements, up to 1 ulp" in case.problems[0] and case.value("steps_equal") == 0


def test_a_rank_whose_gradient_is_left_out_is_found_by_the_sum_and_by_the_reference(found):
    case = found["a rank left out"]
    assert case.value("rank_difference") == 0 and case.value("reduction_error") > 1000
    assert case.value("reference_error_share") > 1


def test_gradients_that_are_summed_instead_of_averaged_are_found_by_the_reference_alone(found):
    case = found["summed"]
    assert (case.value("rank_difference"), case.problems) == (0, []) and case.value("reduction_error") <= 1
    assert case.value("reference_error") == pytest.approx(RANKS - 1, rel=1e-3)
    assert case.value("reference_error_share") > 1 and case.value("allclose_share") < 0.9


def test_a_step_with_a_nan_is_no_clean_step(found):
    case = found["not a number"]
    assert any("was skipped" in text for text in case.problems) and case.value("steps_equal") < 1


def test_a_rank_that_left_one_update_out_costs_one_step_and_no_more(found):
    case = found["frozen once"]
    assert (case.value("clean_steps"), case.figures["accuracy"]["n"]) == (59, 60)
    assert case.value("accuracy_bound") == pytest.approx(0.9232, abs=1e-3)  # 1 of 60: Clopper and Pearson
    assert "rank 1 differs from rank 0 at step 10" in case.problems[0]


def test_a_flipped_bit_of_a_result_is_named_with_its_place(found):
    case = found["a lost bit"]
    assert case.value("wrong_elements") == 1 and len(case.problems) == 1
    assert "1 of its bits differ (mask 0x8)" in case.problems[0] and "element 70" in case.problems[0]
    assert "rank 1: all-reduce" in case.problems[0]


def test_samples_that_are_trained_twice_and_those_left_out_are_counted(found):
    case = found["a batch twice"]
    assert (case.value("samples_missing"), case.value("samples_twice")) == (64, 64)
    assert case.value("effective_batch") == 4096 and case.value("gradient_error_share") > 1
    assert any("were not trained" in text for text in case.problems)
    assert any("trained again" in text and "[1]" in text for text in case.problems)
