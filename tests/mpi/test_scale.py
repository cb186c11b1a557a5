"""`ryzen-mpi scale` as people run it, on a tiny model: real launches, killed in the middle, continued, and reported."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from launch import HERE, Job, mpirun, overrides, run

from ryzen_mpi.scaling.examine import examine
from ryzen_mpi.scaling.plausible import problems
from ryzen_mpi.scaling.spec import Spec

STEPS, WARMUP, BATCH = 30, 3, 6
WORDS = overrides(training__max_steps=None, training__batch_size=BATCH)
CORES = len(os.sched_getaffinity(0))


def scale(out: Path, *words: str, ranks: str = "2") -> list[str]:
    options = ("--ranks", ranks, "--repeats", "1", "--steps", str(STEPS), "--warmup", str(WARMUP), "--out", str(out))
    return [sys.executable, "-m", "ryzen_mpi", "scale", *options, *words]


def launches(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("launches/*/launch.json"))}


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """A scale that was killed with all its ranks in its third launch, and the one that went on."""
    out = tmp_path_factory.mktemp("scale") / "out"
    killed = Job(scale(out, *WORDS), out.parent)
    killed.wait_for(lambda: (out / "launches" / "0003" / "spec.json").exists())
    killed.kill()
    before = launches(out)
    again = run(scale(out, *WORDS), out.parent)
    return out, before, again, json.loads((out / "scaling.json").read_text())


def of(report: dict, mode: str, ranks: int) -> dict:
    return next(each for each in report["launches"] if (each["mode"], each["ranks"]) == (mode, ranks))


def test_a_killed_scale_goes_on_where_it_was(continued):
    out, before, again, report = continued
    assert len(before) >= 2 and f"{len(before)} of 4 launches are there already" in again.out, again.said()
    after = launches(out)
    assert len(after) == 4 and {name: after[name] for name in before} == before
    turns = {(each["mode"], each["ranks"]) for each in report["launches"]}
    assert turns == {("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)} and report["failed"] == []


def test_what_was_really_launched_has_no_problem(continued):
    out, _, again, report = continued
    assert problems(report["launches"]) == []
    assert again.code == (1 if report["problems"] else 3), again.said()
    assert any("1 of at least 5 launches" in text for text in report["insufficient"])
    assert [text for text in examine([out / "scaling.json"]) if "above 1" not in text] == []


def test_strong_keeps_the_work_and_weak_the_work_a_rank(continued):
    report = continued[3]
    one, two = of(report, "strong", 1), of(report, "strong", 2)
    assert one["samples"] == two["samples"] == STEPS * 2 * BATCH and one["indices_sha256"] == two["indices_sha256"]
    assert two["rank_samples"] == [STEPS * BATCH] * 2 and not two["duplicates"]
    alone, pair = of(report, "weak", 1), of(report, "weak", 2)
    assert 2 * alone["samples"] == pair["samples"] == 2 * STEPS * BATCH


def test_every_number_of_ranks_has_the_same_threads_and_as_many_cores(continued):
    told = continued[3]["launches"]
    assert {threads for each in told for threads in each["threads"]} == {max(1, CORES // 2)}
    assert len({len(cpus) for each in told for cpus in each["cpus"]}) == 1
    assert all(each["warmup_steps"] == WARMUP and each["steps"] == STEPS for each in told)


def test_ranks_that_exchange_gradients_learn_what_one_does(continued):
    table = continued[3]["loss_table"]
    assert set(table["losses"]) == {"1", "2"} and len(table["losses"]["2"]) == STEPS + WARMUP
    assert table["largest_difference"] < 1e-12


def test_ranks_that_exchange_none_are_found_out(continued, tmp_path):
    """The documents' mistake, planted: two real ranks at once, each training its shard alone."""
    out, _, _, report = continued
    number = of(report, "strong", 2)["number"]
    spec = Spec.read(out / "launches" / f"{number:04d}" / "spec.json")
    planted = replace(spec, number=50, repeat=1, answer=str(tmp_path / "launch.json"))
    planted.write(tmp_path / "spec.json")
    run(mpirun(2, str(HERE / "unsynchronised.py"), str(tmp_path / "spec.json")), tmp_path).succeeded()
    found = problems([*report["launches"], json.loads((tmp_path / "launch.json").read_text())])
    assert found and all("did not train the same model" in text for text in found), found
    assert any("gradient of step 1 " in text for text in found), found


def test_a_report_and_the_documents_files_are_written(continued):
    out, _, again, report = continued
    names = {f"scaling_{mode}_{ranks}.json" for mode in ("strong", "weak") for ranks in (1, 2)}
    assert names | {"scaling.json", "scaling.md", "plan.json"} <= {path.name for path in out.iterdir()}
    two = json.loads((out / "scaling_strong_2.json").read_text())
    assert two["num_processes"] == 2 == len(two["rank_results"])
    assert [text for text in examine([out / name for name in names]) if "nothing in these files" not in text] == []
    assert "strong scaling" in again.out and report["headline"] in again.out.replace("\n", "")
    assert (out / "scaling.md").read_text().startswith("# Scaling")


@pytest.mark.skipif(CORES > 4, reason="more ranks than this machine has cores would be many")
def test_ranks_that_share_cores_are_told_in_the_headline(tmp_path):
    ranks = CORES + 1
    run(scale(tmp_path / "out", "--mode", "weak", *WORDS, ranks=str(ranks)), tmp_path)
    report = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert report["oversubscribed"] and "OVERSUBSCRIBED" in report["headline"]
    assert problems(report["launches"]) == [] and of(report, "weak", ranks)["threads"] == [1] * ranks


def test_a_launch_that_cannot_work_is_told_and_listed(tmp_path):
    """Text that is not there: every launch is refused by its own ranks."""
    words = overrides(data__source="text", data__paths=str(tmp_path / "absent"), model__vocab_size=256)
    job = run(scale(tmp_path / "out", "--mode", "weak", *words, ranks="1"), tmp_path)
    report = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert job.code == 3 and "FAILED: exit code 2" in job.out, job.said()
    assert "absent" in report["failed"][0]["why"] and report["launches"] == []


def test_a_scale_that_is_asked_to_stop_takes_its_ranks_along(tmp_path):
    out = tmp_path / "out"
    job = Job(scale(out, *WORDS), tmp_path)
    job.wait_for(lambda: (out / "launches" / "0001" / "spec.json").exists())
    job.process.send_signal(signal.SIGTERM)
    job.wait()
    left = [each for each in psutil.process_iter(["cmdline"]) if str(out) in " ".join(each.info["cmdline"] or [])]
    assert job.code == 130 and "what is measured is kept" in job.err and not left, job.said()


def test_wrong_use_ends_with_2_and_what_is_allowed(tmp_path):
    job = run([sys.executable, "-m", "ryzen_mpi", "scale", "--mode", "sideways"], tmp_path)
    assert job.code == 2 and "allowed: strong, weak" in job.err, job.said()
