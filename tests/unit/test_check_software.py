"""Checks of the libraries: versions compared as numbers, wrong ones and differing ones found."""

from __future__ import annotations

import pytest

from ryzen_mpi.validation.checks import software


def of(figures, name):
    return next(figure for figure in figures if figure.name == name).value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Open MPI v4.1.6, package: Debian OpenMPI", 4.01),
        ("Open MPI v5.0.11", 5.0),
        ("2.13.0+cpu", 2.13),
        ("2.1.0", 2.01),
        ("1.13.1", 1.13),
        ("unknown", None),
    ],
)
def test_versions_are_numbers_in_their_own_order(text, number):
    assert software.version_number(text) == number
    assert software.version_number("2.13") > software.version_number("2.2") > software.version_number("2.1")


def mpi(number: int, **changes: object) -> dict:
    base = {
        "rank": number,
        "host": "a",
        "version": "Open MPI v4.1.6, package: x",
        "libraries": ["/usr/lib/libmpi.so.40"],
    }
    return base | {"universe": 4, "environment": {"OMPI_MCA_osc": "^ucx"}} | changes


def test_open_mpi_alike_on_all_ranks_is_healthy():
    for _ in range(10):
        figures, problems, evidence = software.judge_openmpi([mpi(0), mpi(1)], "mpirun")
        assert not problems and of(figures, "version") == 4.01 and of(figures, "universe_size") == 4
    assert "OMPI_MCA_osc=^ucx" in evidence[1] and "libmpi.so.40" in evidence[0]


def test_another_mpi_an_old_one_and_two_at_once_are_found():
    old = software.judge_openmpi([mpi(0, version="Open MPI v3.1.3, x"), mpi(1)], "mpirun")
    assert of(old[0], "version") == 3.01 and "not the same everywhere" in old[1][0]
    other = software.judge_openmpi([mpi(0, version="MPICH Version: 4.2.0", universe=None)], "mpiexec")
    assert of(other[0], "version") is None and of(other[0], "universe_size") is None
    both = software.judge_openmpi([mpi(0), mpi(1, libraries=["/usr/lib/libmpi.so.40", "/opt/libmpi.so.12"])], "mpirun")
    assert both[1] == ["rank 1 has several MPI libraries in one process: /usr/lib/libmpi.so.40, /opt/libmpi.so.12"]


def test_the_library_is_the_one_the_process_has_mapped(tmp_path):
    maps = tmp_path / "maps"
    line = "7f00-7f01 r-xp 00000000 00:00 1 {}\n"
    maps.write_text(
        "".join(line.format(path) for path in ("/opt/lib/libmpi.so.40.40.7", "/opt/lib/libmpi_mpifh.so.40"))
        + line.format("/opt/lib/libmpi.so.40.40.7")
        + "7f00-7f01 rw-p 00000000 00:00 0\n"
    )
    assert software.loaded("libmpi", maps) == ["/opt/lib/libmpi.so.40.40.7"]
    assert software.loaded("libmpi", tmp_path / "none") == []


def torch(host: str, **changes: object) -> dict:
    backends = {"gloo": True, "mpi": False, "ucc": False, "nccl": False, "ryzen": True}
    base = {"host": host, "version": "2.13.0+cpu", "backends": backends, "threads": 16, "cores": 16}
    return base | {"capability": "AVX512", "omp_num_threads": ""} | changes


def test_pytorch_alike_on_all_nodes_is_healthy():
    for _ in range(10):
        findings = software.judge_pytorch([torch("a"), torch("b")])
        assert not findings.problems
    values = {figure.name: figure.value for figure in findings.figures}
    assert values == {
        **{"version": 2.13, "gloo": 1, "mpi": 1, "ucc": 0, "ryzen": 1},
        **{"cores_visible": 16, "threads_share": 1},
    }
    assert "backends gloo, ryzen; without mpi, ucc, nccl" in findings.evidence[0]


def test_a_node_with_another_pytorch_is_found():
    without = {"gloo": False, "mpi": False, "ucc": False, "nccl": False, "ryzen": False}
    odd = torch("b", version="2.0.1", backends=without, threads=1, capability="AVX2")
    findings = software.judge_pytorch([torch("a"), odd])
    values = {figure.name: figure.value for figure in findings.figures}
    assert values["version"] == 2.0 and values["gloo"] == values["mpi"] == 0 and values["threads_share"] == 1 / 16
    assert [line.split(" is ")[0] for line in findings.problems] == ["PyTorch", "vector instructions"]


def test_this_pytorch_is_told_as_it_is():
    found = software.torch_facts()
    assert found["backends"]["gloo"] and software.version_number(found["version"]) >= 2.1
    assert found["threads"] >= 1 and found["cores"] >= 1
