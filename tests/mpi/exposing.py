"""The main job as it is, with the sink for Prometheus among its sinks."""

import os
import runpy
from pathlib import Path

from ryzen_mpi.metrics.prometheus import PrometheusSink
from ryzen_mpi.training import tools

Sinks = tools.Sinks


def with_prometheus(sinks, report):
    path = sinks[0].path.with_name("metrics.prom")
    labels = {"run": path.parent.name, "jobid": "none"}
    targets = Path(os.environ["TARGETS"])
    hosts = [os.uname().nodename] * int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    return Sinks([*sinks, PrometheusSink(path, labels, hosts, port=0, targets=targets, report=report)], report=report)


tools.Sinks = with_prometheus
runpy.run_module("ryzen_mpi.train", run_name="__main__", alter_sys=True)
