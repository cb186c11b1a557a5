"""The world: what the variables of a launcher may claim, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ryzen_mpi.cluster import world
from ryzen_mpi.cluster.exchange import Alone, StoreExchange
from ryzen_mpi.cluster.world import discover, rank_hint
from ryzen_mpi.errors import UserError

LAUNCHERS = ("OMPI_", "PMI", "PMIX", "PRTE", "SLURM_", "TORCHELASTIC", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
SHOW = """
from ryzen_mpi.cluster.world import discover
from ryzen_mpi.errors import UserError
try:
    w = discover()
except UserError as error:
    print("refused:", error)
else:
    print(w.rank, w.size, w.nodes, w.launcher)
    w.exchange.close()
"""


def discovered(**variables: str) -> str:
    """What plain Python discovers in an environment with `variables` and no launcher's besides."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS) or k.startswith("OMPI_ALLOW")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=kept | variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_python_is_a_world_of_one():
    assert discovered().startswith("0 1 1 none")


def test_srun_without_pmix_is_refused_with_the_way_out():
    told = discovered(SLURM_PROCID="2", SLURM_NTASKS="4", SLURM_STEP_ID="0")
    assert "refused: srun started 4 processes, but each is alone" in told
    assert "srun --mpi=pmix" in told


@pytest.mark.parametrize("step", [None, "", "batch", "4294967290", "4294967291"])
def test_the_shell_of_an_allocation_is_no_step(step):
    variables = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"} | ({} if step is None else {"SLURM_STEP_ID": step})
    world._refuse_strangers(variables)


def test_a_mpirun_of_another_mpi_is_refused():
    with pytest.raises(UserError, match="mpiexec started 3 processes") as caught:
        world._refuse_strangers({"PMI_RANK": "1", "PMI_SIZE": "3"})
    assert "the MPI that mpi4py uses" in caught.value.hint


def test_one_process_is_no_stranger():
    world._refuse_strangers({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"})
    world._refuse_strangers({})


def test_without_an_mpi_library_a_single_process_is_a_world_of_one_and_says_why():
    alone = world._without_mpi({}, RuntimeError("cannot load MPI library\nmore"))
    assert (alone.size, alone.launcher) == (1, "none (no MPI library: cannot load MPI library)")


def test_without_an_mpi_library_claimed_ranks_are_refused():
    claim = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
    with pytest.raises(UserError, match="mpirun started 4 processes, but mpi4py found no MPI library") as caught:
        world._without_mpi(claim, RuntimeError("cannot load MPI library"))
    assert "MPI4PY_LIBMPI" in caught.value.hint


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TORCHRUN if name != "TORCHELASTIC_RUN_ID"])
def test_incomplete_variables_of_torchrun_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"not complete: '{name}'"):
        discover({k: v for k, v in TORCHRUN.items() if k != name})


def test_torchruns_variables_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="not complete"):
        discover(TORCHRUN | {"RANK": "first"})


def test_torchruns_world_comes_from_its_variables_and_its_store():
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = discover(TORCHRUN | {"MASTER_PORT": str(store.port), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"})
    assert (found.rank, found.size, found.local_rank, found.nodes, found.is_leader) == (0, 1, 0, 1, True)
    assert isinstance(found.exchange, StoreExchange) and "torchrun" in found.launcher
    assert found.exchange.allgather({"a": 1}) == [{"a": 1}]


def test_after_a_restart_by_torchrun_nothing_of_the_attempt_before_is_heard():
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = TORCHRUN | {"MASTER_PORT": str(store.port)}
    discover(variables | {"TORCHELASTIC_RESTART_COUNT": "0"}).exchange.allgather("old")
    again = discover(variables | {"TORCHELASTIC_RESTART_COUNT": "1"}).exchange
    assert not again.store.check(["ryzen_mpi/1/0"])
    assert again.allgather("new") == ["new"]


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"PMI_RANK": "2"}, 2),
        ({"SLURM_PROCID": "5"}, 5),
        ({"OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "0"}, 3),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "7", "SLURM_PROCID": "1"}, 7),
        ({"RANK": "7"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "?"}, 0),
    ],
)
def test_the_rank_a_launcher_claims(variables, rank):
    assert rank_hint(variables) == rank


def test_the_world_of_one_has_an_exchange_with_itself():
    lonely = world.alone()
    assert isinstance(lonely.exchange, Alone)
    assert lonely.exchange.allgather([1]) == [[1]] and lonely.exchange.broadcast("x") == "x"
