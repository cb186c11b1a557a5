"""The lab itself: Slurm works in it, each fault takes and is gone afterwards, and nothing stays behind."""

from __future__ import annotations


def test_a_job_runs_on_all_four_nodes(lab):
    job = lab.sbatch("#!/bin/bash\nsrun hostname", options=["--nodes=4", "--ntasks-per-node=1"])
    assert lab.wait_job(job).state == "COMPLETED"
    assert sorted((lab.shared / f"slurm-{job}.out").read_text().split()) == lab.nodes
