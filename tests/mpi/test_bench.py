"""The benchmarks as people run them, at tiny sizes: every backend gives right results and a table that can be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import launch
import numpy as np
import pytest

from ryzen_mpi.bench.catalog import BENCHMARKS
from ryzen_mpi.bench.rows import FIGURES

LIMIT_S = 240.0
BACKENDS = ("raw", "mpi", "gloo", "arena")
WITHOUT_ARENA = {*("osu_latency", "osu_bw", "osu_bibw", "osu_alltoall", "ring_allreduce", "tree_allreduce")}
QUICK = ("-i", "3", "-x", "1", "-c")


def several(folder: Path, ranks: int, lines: list[list[str]]) -> list[dict]:
    """What each command line printed and returned, all of one launch."""
    folder.mkdir(exist_ok=True)
    command = launch.mpirun(ranks, str(launch.HERE / "benched.py"), str(folder), json.dumps(lines))
    launch.run(command, launch.REPO, LIMIT_S, OMP_NUM_THREADS="1").succeeded()
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(lines))]


def blocks(text: str) -> dict[str, list[list[str]]]:
    """Rows by backend, read as people's parsers do: lines without a hash, split at blanks."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("# backend: "):
            rows = found.setdefault(line.removeprefix("# backend: "), [])
        elif line and not line.startswith("#"):
            rows.append(line.split())
    return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Every benchmark on every backend at two ranks, and some in other datatypes."""
    folder = tmp_path_factory.mktemp("two")
    sizes = {name: [] if name == "osu_barrier" else ["-m", "8:256"] for name in BENCHMARKS}
    lines = {name: [name, "--backend", "all", *QUICK, *sizes[name]] for name in BENCHMARKS}
    lines["bfloat16"] = ["osu_allreduce", "--backend", "all", *QUICK, "-m", "2:64", "-T", "bfloat16", "-f", "-z"]
    lines["ring bfloat16"] = ["ring_allreduce", *QUICK, "-m", "2:64", "-T", "bfloat16"]
    lines["moved bfloat16"] = ["osu_bcast", *QUICK, "-m", "2:64", "-T", "bfloat16"]
    lines["large"] = ["osu_allreduce", "--backend", "all", *QUICK, "-m", "4M:4M", "-T", "double"]
    lines["small size"] = ["osu_allreduce", "--backend", "raw,arena", *QUICK, "-m", "2:8"]
    lines["limit"] = ["osu_allreduce", *QUICK, "-m", "4:8K", "-M", "4K"]
    lines["broken"] = ["broken", "osu_allreduce", *QUICK, "-m", "8:8"]
    lines["only arena"] = ["osu_latency", "--backend", "arena", *QUICK]
    lines["json"] = [*lines["osu_allreduce"], "--json", str(folder / "rows.json"), "--hdf5", str(folder / "rows.h5")]
    lines["pairs"] = [*lines["all_pairs"], "--json", str(folder / "pairs.json"), "--hdf5", str(folder / "pairs.h5")]
    return folder, dict(zip(lines, several(folder / "out", 2, list(lines.values())), strict=True))


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "all_pairs"])
def test_every_backend_gives_right_results(two_ranks, name):
    done = two_ranks[1][name]
    assert done["codes"] == [0, 0], done["out"]
    found = blocks(done["out"])
    assert tuple(found) == BACKENDS
    for backend, rows in found.items():
        if backend == "arena" and name in WITHOUT_ARENA:
            assert not rows and "# not available: an arena has no" in done["out"]
        elif name == "osu_barrier":
            assert len(rows) == 1 and float(rows[0][0]) > 0 and rows[0][1] == "Pass"
        else:
            assert [int(row[0]) for row in rows] == [8, 16, 32, 64, 128, 256], done["out"]
            assert all(float(row[1]) > 0 and row[2] == "Pass" for row in rows), done["out"]


def test_all_pairs_fill_the_matrices(two_ranks):
    folder, done = two_ranks[0], two_ranks[1]["pairs"]
    assert done["codes"] == [0, 0] and done["out"].count("START mpiGraph") == 3, done["out"]
    assert done["out"].count("# Validation: Pass") == 3 and "# not available: an arena has no" in done["out"]
    content = json.loads((folder / "pairs.json").read_text())
    with h5py.File(folder / "pairs.h5") as file:
        for backend in ("raw", "mpi", "gloo"):
            for name in ("latency_us", "send_mib_s", "receive_mib_s"):
                values = np.array(content["pairs"][backend][name], dtype=float)
                assert np.isnan(values.diagonal()).all() and (values[~np.eye(2, dtype=bool)] > 0).all()
                np.testing.assert_array_equal(values, file[backend][name][()])
                assert file[backend][name].attrs["units"] in ("us", "MiB/s")


def test_mpi_has_no_bfloat16_and_that_is_said(two_ranks):
    done = two_ranks[1]["bfloat16"]
    found = blocks(done["out"])
    assert "MPI has no bfloat16" in done["out"] and not found["raw"]
    assert done["codes"] == [0, 0] and all(found[name] for name in ("mpi", "gloo", "arena"))
    assert "Iterations" in done["out"] and "P90 Tail Lat(us)" in done["out"]


@pytest.mark.parametrize("name", ["ring bfloat16", "moved bfloat16"])
def test_what_only_moves_bytes_moves_bfloat16_over_mpi(two_ranks, name):
    done = two_ranks[1][name]
    assert done["codes"] == [0, 0] and all(row[2] == "Pass" for row in blocks(done["out"])["raw"]), done["out"]


def test_large_messages_are_right_too(two_ranks):
    done = two_ranks[1]["large"]
    assert done["codes"] == [0, 0] and [rows[0][2] for rows in blocks(done["out"]).values()] == ["Pass"] * 4


def test_a_size_that_cannot_be_is_said_in_its_row(two_ranks):
    done = two_ranks[1]["small size"]
    assert [[row[0] for row in rows] for rows in blocks(done["out"]).values()] == [["4", "8"]] * 2
    assert done["out"].count("# 2: not available: 2 bytes are no whole number of float") == 2
    limit = two_ranks[1]["limit"]["out"]
    assert [row[0] for row in blocks(limit)["raw"]][-1] == "4096" and "# 8192: not available: needs" in limit


def test_wrong_results_fail(two_ranks):
    done = two_ranks[1]["broken"]
    assert done["codes"] == [1, 1] and blocks(done["out"])["raw"][0][2] == "Fail", done["out"]


def test_a_backend_that_has_nothing_to_measure_is_an_error(two_ranks):
    done = two_ranks[1]["only arena"]
    assert done["codes"] == [2, 2] and "an arena has no point-to-point" in done["out"]
    assert done["out"].startswith("error: ")  # and no empty table


def test_files_hold_what_was_measured(two_ranks):
    folder, done = two_ranks[0], two_ranks[1]["json"]
    content = json.loads((folder / "rows.json").read_text())
    assert content["machine"]["cpu"] and content["ranks"] == 2 and content["datatype"] == "MPI_FLOAT"
    assert [row["backend"] for row in content["rows"]] == [name for name in BACKENDS for _ in range(6)]
    with h5py.File(folder / "rows.h5") as file:
        assert json.loads(file.attrs["machine"])["cpu"] == content["machine"]["cpu"]
        for name, rows in blocks(done["out"]).items():
            mine = [row for row in content["rows"] if row["backend"] == name]
            assert [f"{row['average_us']:.2f}" for row in mine] == [row[1] for row in rows]
            for figure, about in FIGURES.items():
                assert file[name][figure].attrs["units"] == about["unit"] == content["units"][figure]
            np.testing.assert_array_equal(file[name]["p50_us"][()], [row["p50_us"] for row in mine])


def test_three_ranks_are_right_too(tmp_path):
    names = ("osu_allreduce", "osu_allgather", "osu_reduce_scatter", "osu_alltoall", "ring_allreduce",
             "tree_allreduce", "osu_bcast", "osu_barrier", "all_pairs")  # fmt: skip
    sizes = {"osu_reduce_scatter": ["-m", "12:24"], "osu_barrier": []}
    lines = [[name, "--backend", "all", *QUICK, *sizes.get(name, ["-m", "4:16"])] for name in names]
    lines += [["osu_reduce_scatter", "--backend", "raw,mpi,arena", *QUICK, "-m", "4:16"], ["osu_latency"]]
    *found, uneven, latency = several(tmp_path, 3, lines)
    for name, done in zip(names, found, strict=True):
        assert done["codes"] == [0, 0, 0] and "Fail" not in done["out"] and "Pass" in done["out"], (name, done["out"])
    assert uneven["codes"] == [0, 0, 0] and len(blocks(uneven["out"])["raw"]) == 3 == len(
        blocks(uneven["out"])["arena"]
    )
    assert "cuts evenly only: 2 elements over 3 ranks" in uneven["out"]
    assert latency["codes"] == [2, 2, 2] and "between two ranks, and 3 started" in latency["out"]


def test_a_script_runs_as_the_readme_says(tmp_path):
    script = str(launch.REPO / "benchmarks" / "osu_latency.py")
    job = launch.run(launch.mpirun(2, script, "-m", "1:4", "-i", "5"), tmp_path).succeeded()
    assert job.out.count("# OSU MPI Latency Test") == 1 and [row[0] for row in blocks(job.out)["raw"]] == [
        "1",
        "2",
        "4",
    ]
    assert job.err.count("measured") == 0  # no terminal, no progress


def test_the_command_starts_mpirun_itself(tmp_path):
    words = ("-m", "ryzen_mpi", "bench", "osu_allreduce", "--np", "3", "-m", "4:4", "-i", "2", "--json", "rows.json")
    job = launch.run([sys.executable, *words], tmp_path).succeeded()
    assert "# OSU MPI Allreduce Latency Test" in job.out
    assert json.loads((tmp_path / "rows.json").read_text())["ranks"] == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["-m", "8:2"], "the smallest size is above the largest"),
        (["--json", "/no/such/folder/x.json"], "does not exist"),
    ],
)
def test_what_a_person_got_wrong_is_told_once(words, told, tmp_path):
    script = str(launch.REPO / "benchmarks" / "osu_bw.py")
    job = launch.run(launch.mpirun(2, script, *words), tmp_path)
    assert job.code == 2 and job.err.count("error: ") == 1 and told in job.err, job.said()
    assert "Traceback" not in job.err and not job.out, job.said()


def test_a_mistake_without_mpirun_is_told_before_it_starts(tmp_path):
    job = launch.run([sys.executable, "-m", "ryzen_mpi", "bench", "osu_alreduce"], tmp_path)
    assert job.code == 2 and "did you mean osu_allreduce?" in job.err and "prterun" not in job.err
