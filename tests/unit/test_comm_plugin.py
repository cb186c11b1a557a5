"""What `import torch` brings where this package is installed, and what reductions mean."""

import subprocess
import sys

import pytest
import torch

from ryzen_mpi.comm import plugin
from ryzen_mpi.comm.dtypes import DTYPES, OPS, reduction


def python(code, **variables):
    import os

    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMI", "RANK"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_registering_twice_is_registering_once_and_starts_no_mpi():
    code = """
import sys, torch
from ryzen_mpi.comm import plugin
import torch.distributed as dist
from importlib import import_module
plugin.autoload()
once = import_module("torch.distributed.rendezvous")._rendezvous_handlers["env"]
plugin.autoload()
twice = import_module("torch.distributed.rendezvous")._rendezvous_handlers["env"]
print(once is twice, dist.Backend.RYZEN, "mpi4py.MPI" in sys.modules, "ryzen_mpi.comm.group" in sys.modules)
"""
    assert python(code) == "True ryzen False False"


def test_a_rank_that_is_told_its_rank_meets_the_others_as_torch_does():
    code = """
import sys, torch, torch.distributed as dist
from ryzen_mpi.comm import plugin
plugin.autoload()
dist.init_process_group("gloo")
print(dist.get_rank(), dist.get_world_size(), "mpi4py.MPI" in sys.modules)
"""
    told = dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0", OMPI_COMM_WORLD_RANK="0")
    assert python(code, **told) == "0 1 False"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"PMI_RANK": "3"}, True),
        ({"PMIX_RANK": "0", "RANK": "0"}, False),
        ({"PMIX_RANK": "0", "MASTER_ADDR": "here"}, False),
    ],
)
def test_mpi_is_asked_only_where_it_launched_and_nobody_said_otherwise(environment, expected):
    assert plugin.launched_by_mpi(environment) is expected


def test_every_dtype_has_the_reductions_that_have_a_meaning():
    for dtype in DTYPES:
        for op in (*OPS, "avg"):
            bitwise = op in ("band", "bor", "bxor")
            if (bitwise and dtype.is_floating_point) or (op == "avg" and dtype == torch.bool):
                with pytest.raises(TypeError, match="no meaning"):
                    reduction(dtype, op, 3)
            else:
                code, number, divisor = reduction(dtype, op, 3)
                assert DTYPES[code] == dtype and OPS[number] == ("sum" if op == "avg" else op)
                assert divisor == (3 if op == "avg" else 1)


def test_what_cannot_be_reduced_is_named_with_what_can():
    with pytest.raises(TypeError, match="no reduction of complex64; there is one of float32"):
        reduction(torch.complex64, "sum", 2)
    with pytest.raises(TypeError, match="'median'; there are avg, sum"):
        reduction(torch.float32, "median", 2)
