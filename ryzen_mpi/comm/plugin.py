"""`dist.init_process_group("ryzen")` in any script: registered at every `import torch`, loaded when first used.

PyTorch's own name `mpi` is refused by wheels that are built without MPI before any plug-in is asked, hence a name of
its own. Nothing here may be slow or start MPI: it runs wherever torch is imported.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

from ryzen_mpi.comm.registry import register

_RANK_HINTS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")


def autoload() -> None:
    """Registers the backend. Called by torch (entry point group `torch.backends`). Local."""
    try:
        if register(_create):
            _let_mpi_answer_for_the_environment()
    except Exception as error:  # a PyTorch that changed must still be importable
        warnings.warn(f"ryzen_mpi could not register its backend with this PyTorch: {error!r}", stacklevel=2)


def _create(options: Any, backend_options: Any = None) -> Any:
    from ryzen_mpi.comm.creation import create_group

    return create_group(options)


def _let_mpi_answer_for_the_environment() -> None:
    """Without RANK and its like, `env://` is refused; under mpirun the communicator knows better, so it is asked."""
    # the module, which the package hides behind its function of the same name
    handlers = import_module("torch.distributed.rendezvous")._rendezvous_handlers
    original = handlers["env"]

    def from_environment(url: str, timeout: timedelta = timedelta(minutes=30), **more: Any) -> Iterator[Any]:
        if launched_by_mpi(os.environ):
            from ryzen_mpi.comm.rendezvous import rendezvous_over_mpi

            return rendezvous_over_mpi(timeout)
        return original(url, timeout=timeout, **more)

    handlers["env"] = from_environment


def launched_by_mpi(environment: Mapping[str, str]) -> bool:
    """Whether an MPI launcher started this process and nobody said what torch's variables are. Local."""
    told = "RANK" in environment or "MASTER_ADDR" in environment
    return not told and any(name in environment for name in _RANK_HINTS)
