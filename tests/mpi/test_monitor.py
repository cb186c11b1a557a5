"""What the monitor does about faults planted in the main job on real ranks: the right rule, rank and act, in time; and
the run ends where an undisturbed one does."""

import json

import pytest
from launch import events, metrics, mpirun, of_action, overrides, planted, run, train

RANKS, STEPS = 3, 240
WORDS = overrides(
    training__max_steps=STEPS,
    training__save_interval=40,
    training__learning_rate=0.003,
    monitor__hash_interval=20,
    monitor__sample_s=0.5,
    hardware__num_threads=1,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(mpirun(RANKS, *train(folder, *WORDS)), folder.parent).succeeded()
    return folder


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """One run with one fault after the other: a NaN, a large gradient, a unit in the last place, a flipped bit."""
    folder = tmp_path_factory.mktemp("disturbed") / "run"
    faults = "nan:1@45 large:2@75 ulp:1@105 flip:0@145"
    return folder, run(mpirun(RANKS, *planted(folder, *WORDS)), folder.parent, PLANTED=faults).succeeded()


def acts(folder, rule=None):
    """The acts of a run, oldest first."""
    found = [event["ryzen"] for event in of_action(folder, 0, "act")]
    return [act for act in found if rule in (None, act["rule"])]


def summary(folder):
    return json.loads((folder / "COMPLETE.json").read_text())


def test_nothing_is_done_about_a_healthy_run(undisturbed):
    assert acts(undisturbed) == [] and summary(undisturbed)["skipped_steps"] == 0


def test_a_nan_on_one_rank_is_skipped_in_that_step_and_the_rank_named(disturbed):
    [act] = acts(disturbed[0], "finite")
    assert (act["kind"], act["rank"], act["step"]) == ("skip", 1, 45), act


def test_a_gradient_ten_times_as_large_is_skipped_in_that_step_and_the_rank_named(disturbed):
    [act] = acts(disturbed[0], "spike")
    assert (act["kind"], act["rank"], act["step"]) == ("skip", 2, 75), act


def test_weights_that_differ_are_found_at_the_next_comparison_and_trained_again_from_before(disturbed):
    ulp, replayed_ulp, flip, replayed_flip = acts(disturbed[0], "sync")
    assert (ulp["kind"], ulp["rank"], ulp["step"]) == ("roll_back", 1, 120), ulp
    assert (flip["kind"], flip["rank"], flip["step"]) == ("roll_back", 0, 160), flip
    for act, rank, step in ((replayed_ulp, 1, 120), (replayed_flip, 0, 160)):
        assert (act["kind"], act["rank"], act["step"]) == ("warn", rank, step), act
        assert act["figures"]["cause"] == "hardware"
    backs = [event["ryzen"]["step"] for event in of_action(disturbed[0], 0, "back")]
    starts = [event["ryzen"]["step"] for event in of_action(disturbed[0], 0, "start")]
    assert backs == [120, 160] and starts == [0, 80, 120]


def test_no_checkpoint_is_made_of_weights_that_differ(disturbed):
    saved = [event for event in events(disturbed[0]) if event["event"]["action"] == "back"]
    assert len(saved) == 2 and "160" not in [path.name[-3:] for path in (disturbed[0] / "checkpoints").glob("set-a*/*")]


def test_the_disturbed_run_ends_with_the_loss_of_the_undisturbed_one(undisturbed, disturbed):
    ours, theirs = (summary(folder)["held_out"]["loss"] for folder in (disturbed[0], undisturbed))
    assert abs(ours / theirs - 1) < 0.01, (ours, theirs)
    steps = metrics(disturbed[0])
    assert steps["training/step"].tolist() == list(range(1, STEPS + 1))  # each once, as the run ended up with
    assert steps["training/skipped"].sum() == 2 == summary(disturbed[0])["skipped_steps"]


def test_bad_steps_in_a_row_lower_the_rate_and_then_go_back_round_the_data(tmp_path, undisturbed):
    folder = tmp_path / "run"
    batch = 18
    faults = "data:1@" + ",".join(str(batch * (step - 1)) for step in (61, 63, 65, 91, 93, 95))
    run(mpirun(RANKS, *planted(folder, *WORDS)), tmp_path, PLANTED=faults).succeeded()
    lower, back = acts(folder, "divergence")
    assert (lower["kind"], lower["step"]) == ("lower_rate", 65)
    assert (back["kind"], back["step"]) == ("roll_back", 95)
    assert [event["ryzen"]["step"] for event in of_action(folder, 0, "start")] == [0, 40]
    rates = metrics(folder)["training/learning_rate"]
    assert rates[70] < 0.6 * metrics(undisturbed)["training/learning_rate"][70]
    samples = metrics(folder)["training/samples"]
    assert max(samples[1:] - samples[:-1]) > batch  # round the window
    before = metrics(folder)["training/loss"][55:60].min()
    assert summary(folder)["held_out"]["loss"] < before  # it has gone on learning


def test_a_difference_that_comes_again_in_the_replay_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    done = run(mpirun(2, *planted(folder, *WORDS)), tmp_path, PLANTED="always:1@30")
    assert done.code == 2 and "again after training it anew" in done.err, done.said()
    [act] = acts(folder, "sync")
    assert act["rank"] == -1 and "replay" in act["evidence"]


def test_among_two_ranks_the_replay_names_the_one(tmp_path):
    folder = tmp_path / "run"
    run(mpirun(2, *planted(folder, *WORDS)), tmp_path, PLANTED="ulp:1@30").succeeded()
    first, second = acts(folder, "sync")
    assert (first["rank"], second["rank"], second["kind"]) == (-1, 1, "warn")


def test_a_rank_five_times_slower_is_named_within_ten_steps(tmp_path):
    folder = tmp_path / "run"
    words = [*WORDS, "training.max_steps=60"]
    run(mpirun(RANKS, *planted(folder, *words)), tmp_path, PLANTED="slow:1@40").succeeded()
    slow = acts(folder, "straggler")
    assert (slow[0]["rank"], slow[0]["kind"]) == (1, "warn") and 40 < slow[0]["step"] <= 52, slow
