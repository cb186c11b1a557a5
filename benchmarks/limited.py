"""Jobs on the hosts of the test lab with a slow network: what the benchmarks of it share. Needs tests/lab/README.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
HEAD = """\
#!/bin/bash
#SBATCH --nodes={nodes}
#SBATCH --nodelist={hosts}
#SBATCH --ntasks-per-node={ranks_per_node}
#SBATCH --exclusive
#SBATCH --output={output}
# One network, which is the limited one; the hosts share this machine's cores: a rank that spins takes another's.
export OMPI_MCA_btl_tcp_if_include=eth0 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp
export OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1
"""


def start_lab() -> Any:
    """The lab, a context manager."""
    if str(REPO) not in sys.path:
        sys.path.append(str(REPO))  # for `tests.lab`, which is no installed package
    from tests.lab.cluster import Cluster

    return Cluster()


def run_job(
    lab: Any, mbit: int, program: str, result: Path, limit_s: float, nodes: int = 4, ranks_per_node: int = 1
) -> str:
    """Runs the lines `program` as a Slurm job whose first host has `mbit` Mbit/s each way; returns what `result` holds.

    `result`: a file in the lab's shared folder, which the job writes last. SystemExit with what the job printed where
    it has not.
    """
    from tests.lab.faults import bandwidth_limit

    output = result.with_suffix(".out")
    result.unlink(missing_ok=True)
    hosts = ",".join(f"node{number}" for number in range(1, nodes + 1))
    head = HEAD.format(nodes=nodes, hosts=hosts, ranks_per_node=ranks_per_node, output=output)
    with bandwidth_limit(lab, "node1", mbit * 1_000_000):
        state = lab.wait_job(lab.sbatch(head + program), timeout_s=limit_s).state
    if not result.exists():
        sys.exit(f"the job ended as {state}:\n{output.read_text(errors='replace')[-4000:]}")
    return result.read_text()


def lines_by_bandwidth(
    name: str, mbits: Sequence[int], program: str, limit_s: float, **given: Any
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """In a lab of its own, for every bandwidth: itself, and the JSON lines that the job of it wrote.

    `program` is filled in with `given`, lists as words, `repo`, and `result`, the file of the lines. SystemExit as in
    `run_job`.
    """
    words = {
        key: " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for key, value in given.items()
    }
    with start_lab() as lab:
        for mbit in mbits:
            result = lab.shared / f"{name}-{mbit}.jsonl"
            told = run_job(lab, mbit, program.format(repo=REPO, result=result, **words), result, limit_s)
            yield mbit, [json.loads(line) for line in told.splitlines()]
