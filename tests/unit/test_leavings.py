"""What a killed mpirun leaves is removed, and nothing else."""

import os

import pytest

from ryzen_mpi.scaling import launch
from ryzen_mpi.supervisor.leavings import BASE, remove_leavings

KEEPER = "mkdir -p {base}/ompi.$$/1; echo $$ > {base}/ompi.$$/pmix.vm.tool; {then}"
"""A stand-in for mpirun where its number matters, not what it does."""


@pytest.mark.parametrize("then", ["exit 0", "exit 213", "kill -9 $$", "sleep 60"])
def test_however_a_launch_ends_nothing_of_it_stays(tmp_path, monkeypatch, then):
    monkeypatch.setenv(BASE, str(tmp_path))
    other = tmp_path / f"ompi.{os.getpid()}"
    other.mkdir()
    launch.run(["sh", "-c", KEEPER.format(base=tmp_path, then=then)], 2.0, os.environ)
    assert list(tmp_path.iterdir()) == [other]


def test_a_link_to_elsewhere_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setenv(BASE, str(tmp_path))
    kept = tmp_path / "kept" / "file"
    kept.parent.mkdir()
    kept.write_text("mine")
    (tmp_path / "ompi.7").symlink_to(kept.parent)
    remove_leavings(7)
    assert kept.read_text() == "mine"


def test_a_launch_that_trips_over_what_another_left_is_made_again(tmp_path):
    """In Open MPI's words; nothing else is tried twice."""
    words = 'echo "The PMIx server\'s listener thread failed to start. We cannot" >&2; exit 213'
    mend = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge {{}} ] && exit 0; {words}"
    assert launch.run(["sh", "-c", mend.format(3)], 10.0, os.environ).code == 0
    (tmp_path / "tries").unlink()
    assert launch.run(["sh", "-c", mend.format(9)], 10.0, os.environ).code == 213
    assert (tmp_path / "tries").read_text() == "x\n" * launch.TRIES
    (tmp_path / "tries").unlink()
    assert launch.run(["sh", "-c", mend.format(9).replace("listener", "other")], 10.0, os.environ).code == 213
    assert (tmp_path / "tries").read_text() == "x\n"
