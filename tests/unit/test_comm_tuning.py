"""Which way a size takes, and the file this is kept in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.comm import tuning
from ryzen_mpi.comm.plain import slice_of
from ryzen_mpi.comm.tuning import COLLECTIVES, MPI_WAY, STAGED, Table

TABLE = Table({name: ((64, MPI_WAY), (4096, STAGED), (8192, MPI_WAY)) for name in COLLECTIVES}, "a test")


@pytest.mark.parametrize(
    ("size", "way"), [(0, MPI_WAY), (64, MPI_WAY), (65, STAGED), (4096, STAGED), (4097, MPI_WAY), (10**9, MPI_WAY)]
)
def test_a_size_takes_the_way_of_the_next_larger_one_measured(size, way):
    assert {TABLE.way(name, size) for name in COLLECTIVES} == {way}


def test_a_table_comes_back_from_its_file(tmp_path):
    assert tuning.store(TABLE, tmp_path / "new" / "folder" / "table.json")
    assert tuning.load(tmp_path / "new" / "folder" / "table.json").steps == TABLE.steps
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["table.json"]


GOOD = {name: [[64, MPI_WAY], [128, STAGED]] for name in COLLECTIVES}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        json.dumps({}),
        json.dumps(GOOD | {"all_reduce": []}),
        json.dumps(GOOD | {"all_reduce": [[128, STAGED], [64, MPI_WAY]]}),
        json.dumps(GOOD | {"all_reduce": [[64, "magic"]]}),
        json.dumps(GOOD | {"all_reduce": [64]}),
        json.dumps(GOOD | {"all_reduce": [[1, STAGED, 3]]}),
        json.dumps(GOOD | {"all_reduce": None}),
        json.dumps(GOOD | {"all_reduce": [[float("inf"), STAGED]]}),
        json.dumps({name: rows for name, rows in GOOD.items() if name != "broadcast"}),
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    assert tuning.load(path) is None
    path.write_bytes(b"\xff\xfe\x00")
    assert tuning.load(path) is None and tuning.load(tmp_path) is None and tuning.load(tmp_path / "none") is None


def test_a_place_that_cannot_be_written_is_said_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert not tuning.store(TABLE, tmp_path / "file" / "table.json")
    (tmp_path / "table.json").mkdir()
    assert not tuning.store(TABLE, tmp_path / "table.json")


def test_the_quicker_way_is_measured_and_a_tie_goes_to_the_stage():
    def run(name, size, way):
        return 1.0 if way == STAGED else {"all_reduce": 0.5, "broadcast": 0.95}.get(name, 2.0 if size < 5000 else 0.1)

    found = tuning.measure(run)
    assert {found.way("all_reduce", size) for size in tuning.SIZES} == {MPI_WAY}
    assert {found.way("broadcast", size) for size in tuning.SIZES} == {STAGED}
    assert (found.way("all_gather", 4096), found.way("all_gather", 4097)) == (STAGED, MPI_WAY)
    assert len(found.steps["all_gather"]) == 2


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 70))
def test_slices_cover_everything_once_and_begin_on_cache_lines(count, item, ranks):
    slices = [slice_of(count, item, rank, ranks) for rank in range(ranks)]
    assert slices[0].start == 0 and slices[-1].stop == count
    assert all(a.stop == b.start for a, b in zip(slices, slices[1:], strict=False))
    assert all(part.start * item % 64 == 0 or part.start == count for part in slices)
    assert all(part.start <= part.stop for part in slices)
