"""The documents' files: written from launches, read back from wherever, and what they cannot hide."""

from __future__ import annotations

import copy
import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scaling_launches import changed, many, place_of, recorded

from ryzen_mpi.commands.scale import command
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import compose, documents
from ryzen_mpi.scaling.examine import examine, examine_report
from ryzen_mpi.scaling.show import markdown, notes

LAUNCHES = many("strong", {1: 40.0, 2: 20.5, 4: 11.0}) + many("weak", {1: 10.0, 2: 10.4})
REPORT = compose.report(LAUNCHES, {"strong": [1, 2, 4], "weak": [1, 2]}, made=1.0)
FILES = documents.documents(LAUNCHES, REPORT)


def told(files: dict) -> list[str]:
    return documents.examine([documents.read_document(values, name) for name, values in files.items()])


def good() -> dict:
    """The strong files, with ranks that differ in the last digits as real ones do."""
    files = {name: copy.deepcopy(values) for name, values in FILES.items() if "strong" in name}
    for values in files.values():
        for rank in values["rank_results"]:
            rank["elapsed_s"] *= 1 - 1e-6 * rank["rank"]
    return files


def test_there_is_a_file_a_configuration_in_the_documents_form():
    assert sorted(FILES) == [
        f"scaling_{kind}.json" for kind in ("strong_1", "strong_2", "strong_4", "weak_1", "weak_2")
    ]
    four = FILES["scaling_strong_4.json"]
    assert {"timestamp", "num_processes", "aggregated_metrics", "rank_results"} <= set(four)
    assert four["num_processes"] == len(four["rank_results"]) == 4
    metrics = four["aggregated_metrics"]
    assert metrics["throughput_samples_per_s"] == pytest.approx(metrics["samples"] / metrics["elapsed_s"])
    assert sum(rank["samples"] for rank in four["rank_results"]) == metrics["samples"] == 640
    json.dumps(FILES, allow_nan=False)


def test_honest_files_have_no_problem():
    assert told(good()) == []


def of_four(change) -> str:
    files = good()
    change(files["scaling_strong_4.json"])
    return "\n".join(told(files))


def test_throughput_times_the_ranks_is_recognised_as_that():
    def multiply(values):
        values["aggregated_metrics"]["throughput_samples_per_s"] *= 4

    said = of_four(multiply)
    assert "which is its 4 ranks: samples were counted once for each" in said and "nothing in these files" in said


def test_the_published_figures_in_this_form_are_found_out():
    """320 samples an epoch, the slowest rank's seconds, and what the documents call throughput."""
    files = {
        str(ranks): {
            "timestamp": "",
            "num_processes": ranks,
            "aggregated_metrics": {"throughput_samples_per_s": rate, "elapsed_s": seconds, "samples": 320},
            "rank_results": [],
        }
        for ranks, rate, seconds in ((1, 13.35, 24.0), (2, 87.48, 7.32), (4, 270.19, 4.74))
    }
    said = "\n".join(told(files))
    assert said.count("samples were counted once for each") == 2
    assert "5.06 times what 4 ranks can do" in said and "results of 0 ranks, and claims 4" in said


def test_other_lies():
    def shift(values):
        for rank in values["rank_results"]:
            rank["began"] += 20 * rank["rank"]
            rank["ended"] += 20 * rank["rank"]

    assert "one after the other" in of_four(shift)
    assert "its ranks trained" in of_four(lambda values: values["rank_results"][0].update(samples=1000))
    assert "results of 3 ranks" in of_four(lambda values: values["rank_results"].pop())
    assert "slowest rank took" in of_four(lambda values: values["rank_results"][2].update(elapsed_s=100.0))
    assert "not finite" in of_four(lambda values: values["aggregated_metrics"].update(elapsed_s=-1))
    assert "not finite" in of_four(lambda values: values["aggregated_metrics"].update(throughput_samples_per_s=1e999))
    assert "to the last digit" in of_four(lambda values: [r.update(elapsed_s=9.0) for r in values["rank_results"]])
    without_base = {name: values for name, values in good().items() if "1" not in name}
    assert "no file for 1 rank" in told(without_base)[0]
    twice = good() | {"again": good()["scaling_strong_2.json"]}
    assert "several files for 2 ranks" in told(twice)[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(["num_processes", "aggregated_metrics", "rank_results", "mode"]))
def test_a_file_from_outside_is_refused_or_examined_and_never_a_crash(junk, key):
    for values in (junk, FILES["scaling_strong_2.json"] | {key: junk}):
        try:
            documents.examine([documents.read_document(values, "x.json")])
        except UserError as error:
            assert "x.json is not of the documents' form" in str(error)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="can't be read as JSON"):
        documents.load(path)


def test_a_file_without_end_is_refused(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(documents.LARGEST_FILE + 1)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        documents.load(path)
    with pytest.raises(UserError, match="can't be read"):
        documents.load(tmp_path / "absent.json")


# -- reports of this program ------------------------------------------------------------------------------------------


def recorded_report(values: list[dict]) -> dict:
    from ryzen_mpi.scaling.record import parse

    return compose.report([parse(each) for each in values], {"strong": [1, 2], "weak": [1, 2]}, values=values, made=1.0)


def test_a_report_of_ours_is_held_against_its_own_launches():
    report = recorded_report(recorded())
    assert report["problems"] == examine_report(report)
    claimed = copy.deepcopy(report)
    claimed["strong"]["points"][1]["efficiency"]["value"] = 0.99
    assert "strong efficiency at 2 ranks is 0.99" in examine_report(claimed)[0]
    assert "is not that of its launches" in examine_report(report | {"weak": None})[0]
    assert "nothing in it can be checked" in examine_report(report | {"launches": []})[0]
    assert "its format is 7" in examine_report(report | {"format": 7})[0]


@given(JSON, st.sampled_from(["launches", "strong", "problems", "format"]))
def test_a_report_from_outside_never_crashes(junk, key):
    examine_report(REPORT | {key: junk})


def test_problems_make_the_headline():
    values = recorded()
    place = place_of(values, "strong", 2)
    report = recorded_report(changed(values, place, throughput=2 * values[place]["throughput"]))
    assert report["headline"].startswith("INVALID: launch ") and "2 times as much" in report["headline"]
    assert "2 times as much" in markdown(report)


def test_oversubscription_is_said_in_the_headline():
    launches = many("strong", {1: 40.0}) + many("strong", {2: 40.5}, cpus=[[0], [0]])
    report = compose.report(launches, {"strong": [1, 2]}, made=1.0)
    assert report["oversubscribed"] and "OVERSUBSCRIBED: 2 ranks share cores" in report["headline"]
    assert report["strong"]["points"][1]["oversubscribed"] and not report["strong"]["points"][0]["oversubscribed"]
    assert "2 (shared cores)" in markdown(report)


def test_the_headline_tells_ranks_with_a_core_each_before_those_that_share():
    launches = many("strong", {1: 40.0, 2: 21.0}) + many("strong", {4: 21.5}, cpus=[[0], [1], [0], [1]])
    told = compose.report(launches, {"strong": [1, 2, 4]}, made=1.0)["headline"]
    assert told.index("OVERSUBSCRIBED: 4 ranks share cores") < told.index("1.9 times")
    assert told.index("1.9 times one rank on 2,") < told.index("1.86 times one rank on 4 that share cores")


def test_disturbed_launches_are_counted_in_the_headline_and_ranks_that_share_cores_are_not():
    quiet, busy = many("strong", {1: 40.0}), many("strong", {2: 21.0}, waited_share=0.3)
    report = compose.report(quiet + busy, {"strong": [1, 2]}, made=1.0)
    assert "5 of 10 launches were disturbed" in report["headline"]
    assert "waited 30.0 % of the time" in report["disturbed"][0]
    crowded = many("strong", {2: 21.0}, waited_share=0.3, cpus=[[0], [0]])
    assert compose.report(quiet + crowded, {"strong": [1, 2]}, made=1.0)["disturbed"] == []


def test_long_lists_are_cut_for_people_and_whole_in_the_report():
    (title, lines), *_ = notes(REPORT | {"problems": [str(number) for number in range(20)]})
    assert "INVALID" in title and lines == [*map(str, range(8)), "and 12 more (scaling.json)"]


def test_the_command_examines_files(tmp_path):
    names = []
    for name, values in good().items():
        (tmp_path / name).write_text(json.dumps(values))
        names.append(str(tmp_path / name))
    done = CliRunner().invoke(command, ["--examine", *names])
    assert (done.exit_code, done.output) == (0, "nothing in it that cannot be true\n")
    assert examine([tmp_path / "scaling_strong_2.json"]) != []
    done = CliRunner().invoke(command, ["--examine", names[1]])
    assert done.exit_code == 1 and "no file for 1 rank" in done.output
