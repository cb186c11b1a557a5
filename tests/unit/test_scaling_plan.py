"""What is launched and in which order, what is refused, and what a folder remembers."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from ryzen_mpi.cluster.topology import read_topology
from ryzen_mpi.commands.scale import command
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import measure
from ryzen_mpi.scaling.assemble import duplicates
from ryzen_mpi.scaling.caches import cache_share, clock_mhz
from ryzen_mpi.scaling.launch import Ended, Nodes
from ryzen_mpi.scaling.plan import Turn, make_plan
from ryzen_mpi.scaling.working_set import working_set_bytes
from ryzen_mpi.settings import load_settings

CORES = len(read_topology().cores)


def plan(ranks=(1, 2), modes=("strong", "weak"), words=(), **more):
    return make_plan("scaling_benchmark", words, ranks, modes, more.pop("nodes", Nodes()), **more)


def test_everything_is_launched_in_every_repeat_and_each_begins_with_another():
    turns = plan((1, 2, 4), repeats=7).turns()
    assert len(turns) == len(set(turns)) == 7 * 6
    for repeat in range(7):
        mine = turns[6 * repeat : 6 * repeat + 6]
        assert {turn.repeat for turn in mine} == {repeat} and len(set(mine)) == 6
    firsts = [turns[6 * repeat] for repeat in range(6)]
    assert len({(turn.mode, turn.ranks) for turn in firsts}) == 6


def test_strong_keeps_the_batch_and_weak_the_batch_a_rank():
    made = plan((2, 4))
    assert made.ranks == (1, 2, 4)  # the base is added
    assert {made.batch(Turn("strong", ranks, 0)) for ranks in (1, 2, 4)} == {64}
    assert [made.batch(Turn("weak", ranks, 0)) for ranks in (1, 2, 4)] == [16, 32, 64]
    assert plan(words=("training.global_batch=48",)).batch(Turn("strong", 1, 0)) == 48


def test_threads_are_what_is_left_to_each_of_the_most_ranks():
    assert plan((CORES,)).threads == 1 == plan((4 * CORES,)).threads
    assert plan((1,)).threads == CORES
    assert plan((1, CORES), words=("hardware.num_threads=1",)).threads == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ranks": (0,)}, "--ranks 0"),
        ({"modes": ("weird",)}, "allowed: strong, weak"),
        ({"words": (f"hardware.num_threads={CORES + 1}",)}, "at most"),
        ({"words": ("hardware.bind=none",)}, "bound alike"),
        ({"words": ("training.global_batch=1",)}, "less than a sample a rank"),
        ({"words": ("training.bach_size=1",)}, "batch_size"),
        ({"ranks": (9,), "nodes": Nodes(("a", "b"), 4)}, "9 ranks do not fit on 2 nodes of 4"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_what_can(arguments, said):
    with pytest.raises(UserError) as error:
        plan(**arguments)
    assert said in str(error.value)


@pytest.mark.parametrize("words", [("--ranks", "two"), ("--ranks", ""), ("--mode", ""), ("--ranks", "1,,2")])
def test_wrong_words_are_refused(words):
    done = CliRunner().invoke(command, list(words))
    assert isinstance(done.exception, UserError) and words[0] in str(done.exception)


def test_several_nodes_are_filled_one_after_the_other():
    made = plan((1, 4, 8), nodes=Nodes(("a", "b"), 4))
    assert made.per_node == 4 and made.threads == max(1, CORES // 4)
    assert plan((1, 6), nodes=Nodes(("a", "b"))).per_node == 3


# -- a folder ---------------------------------------------------------------------------------------------------------


def fail(*_, **__) -> Ended:
    return Ended((sys.executable,), 3, "", "it broke\n", 0.1, False)


def test_a_launch_that_fails_is_told_kept_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "launch", fail)
    lines = []
    kept = measure.measure(plan(repeats=1), tmp_path, Nodes(), lines.append)
    assert len(kept.failed) == 4 and not kept.launches
    assert all("FAILED: exit code 3" in line for line in lines) and "left" in lines[0]
    assert kept.failed[0].why == "exit code 3\nit broke"
    again = measure.measure(plan(repeats=1), tmp_path, Nodes())
    assert [each.number for each in again.failed] == list(range(1, 9))


def test_the_failure_begins_with_what_the_rank_said(tmp_path, monkeypatch):
    err = "Traceback\n  noise\nryzen_mpi: rank 1 on here failed, the job ends: CollectiveError: late\nMPI_ABORT\n"
    monkeypatch.setattr(measure, "launch", lambda *_, **__: Ended((), 1, "", err, 0.1, False))
    why = measure.measure(plan((1,), ("weak",), repeats=1), tmp_path, Nodes()).failed[0].why
    assert why.splitlines()[0] == "exit code 1: ryzen_mpi: rank 1 on here failed, the job ends: CollectiveError: late"


def test_what_a_launch_said_is_text():
    """Open MPI ends some of its messages with NUL, which made a binary file of a job's output."""
    assert Ended((), 1, "", "peer is gone\n\0\0\n  ---\nthe end\0\n", 0.1, False).tail() == "peer is gone\nthe end"


def test_an_exit_code_of_0_without_a_launch_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "launch", lambda *_, **__: Ended((), 0, "", "", 0.1, False))
    assert "left no launch behind" in measure.measure(plan((1,), repeats=1), tmp_path, Nodes()).failed[0].why


def test_a_launch_at_its_limit_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "launch", lambda *_, **__: Ended((), -15, "", "", 0.1, True))
    kept = measure.measure(plan((1,), ("weak",), repeats=1, limit_s=90), tmp_path, Nodes())
    assert "1 min 30 s (--limit)" in kept.failed[0].why


def test_another_plan_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "launch", fail)
    measure.measure(plan(repeats=1), tmp_path, Nodes())
    measure.measure(plan(repeats=2), tmp_path, Nodes())  # more of the same is welcome
    with pytest.raises(UserError, match="begun with steps=20, and this is steps=30"):
        measure.measure(plan(repeats=1, steps=30), tmp_path, Nodes())
    with pytest.raises(UserError, match="begun with threads="):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 99}))
        measure.measure(plan(repeats=1), tmp_path, Nodes())


def test_a_launch_that_was_interrupted_is_fenced_off(tmp_path, monkeypatch):
    """Its worker may outlive the driver: it finds no folder for its answer."""
    monkeypatch.setattr(measure, "launch", fail)
    own = tmp_path / "launches" / "0001"
    own.mkdir(parents=True)
    (own / "spec.json").write_text("{}")
    kept = measure.measure(plan((1,), ("weak",), repeats=1), tmp_path, Nodes())
    assert not own.exists() and (tmp_path / "launches" / "0001.interrupted" / "spec.json").exists()
    assert [each.number for each in kept.failed] == [2]


def test_two_at_once_in_one_folder_are_refused(tmp_path, monkeypatch):
    def second(*_, **__):
        with pytest.raises(UserError, match="is in use by process"):
            measure.measure(plan(repeats=1), tmp_path, Nodes())
        return fail()

    monkeypatch.setattr(measure, "launch", second)
    measure.measure(plan((1,), ("weak",), repeats=1), tmp_path, Nodes())


@pytest.mark.parametrize("name", ["launch.json", "failed.json"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, name):
    own = tmp_path / "launches" / "0001"
    own.mkdir(parents=True)
    (own / name).write_text("{")
    with pytest.raises(UserError, match="0001 holds no launch that can be read"):
        measure.measure(plan(repeats=1), tmp_path, Nodes())


# -- what a rank has --------------------------------------------------------------------------------------------------


def plant(root, cpu: int, index: int, level: int, kind: str, size: str, served: str) -> None:
    folder = root / f"cpu/cpu{cpu}/cache/index{index}"
    folder.mkdir(parents=True)
    values = {"level": str(level), "type": kind, "size": size, "shared_cpu_list": served}
    for name, value in values.items():
        (folder / name).write_text(value + "\n")


def test_a_shared_cache_is_divided_among_the_ranks_that_use_it(tmp_path):
    for cpu in range(4):
        plant(tmp_path, cpu, 0, 1, "Data", "32K", str(cpu))
        plant(tmp_path, cpu, 1, 1, "Instruction", "64K", str(cpu))
        plant(tmp_path, cpu, 2, 2, "Unified", "1M", str(cpu))
        plant(tmp_path, cpu, 3, 3, "Unified", "32M", "0-1" if cpu < 2 else "2-3")
    everyone = [[0], [1], [2, 3]]
    assert cache_share([0], everyone, tmp_path) == {"1": 32 << 10, "2": 1 << 20, "3": 16 << 20}
    assert cache_share([2, 3], everyone, tmp_path) == {"1": 64 << 10, "2": 2 << 20, "3": 32 << 20}
    assert cache_share([0], [[0]], tmp_path)["3"] == 32 << 20
    assert cache_share([9], [[9]], tmp_path) == {}


def test_the_clock_is_told_or_not_known(tmp_path):
    assert clock_mhz([0], tmp_path) is None
    for cpu, value in ((0, 2_000_000), (1, 3_000_000)):
        folder = tmp_path / f"cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{value}\n")
    assert clock_mhz([0, 1], tmp_path) == 2500.0 and clock_mhz([0, 2], tmp_path) is None


def test_the_working_set_shrinks_with_the_share_of_the_batch_only():
    settings = load_settings("scaling_benchmark")
    full, again, less = (working_set_bytes(settings, ranks, 1, 64) for ranks in (1, 4, 8))
    assert full == again > less > 16 * 2**20 / 4


def test_duplicates_are_counted_within_an_epoch():
    assert duplicates([0, 1, 2, 0, 1, 2], 0, 3) == 0  # two epochs
    assert duplicates([0, 1, 0, 1], 0, 4) == 2  # two ranks with the same shard
    assert duplicates([2, 0, 1, 2], 2, 3) == 0  # from the last of one epoch into the next
    assert duplicates([2, 2], 2, 3) == 0 and duplicates([2, 2], 3, 3) == 1


def test_help_names_the_exit_codes():
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0 and "INVALID" in done.output


def test_nodes_take_more_ranks_than_the_job_has_tasks_where_a_check_wants_them():
    three = Nodes(("a", "b", "c"), 4)
    assert three.crowded(16).hosts(16) == {"a": 6, "b": 5, "c": 5}
    assert three.crowded(8).hosts(8) == {"a": 4, "b": 4}
    assert Nodes(("a", "b")).crowded(5).hosts(5) == {"a": 3, "b": 2} and Nodes().crowded(16).hosts(16) == {}
