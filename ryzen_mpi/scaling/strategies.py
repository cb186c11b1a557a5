"""Which strategy would make a step shortest on so many ranks, of those whose memory fits."""

from __future__ import annotations

from dataclasses import dataclass

from ryzen_mpi.config import Settings
from ryzen_mpi.scaling.collective import ALGORITHMS, OURS
from ryzen_mpi.scaling.draws import Values
from ryzen_mpi.scaling.simulate import Cluster, changed, step
from ryzen_mpi.training.memory import need


@dataclass(frozen=True)
class Candidate:
    """A strategy for a number of ranks: its step, its memory a node, and whether it learns the same."""

    stage: int
    compression: str
    algorithm: str
    step_s: float
    node_bytes: int
    fits: bool
    same_learning: bool

    @property
    def words(self) -> str:
        parts = [f"stage {self.stage}", self.compression if self.compression != "none" else "uncompressed"]
        return ", ".join([*parts, self.algorithm])


def candidates(values: Values, settings: Settings, cluster: Cluster, ranks: int) -> list[Candidate]:
    """All strategies that can be reckoned with the calibration, the quickest that fits first. Pure."""
    nodes, found = cluster.nodes(ranks), []
    ours = settings.distributed.arena and settings.distributed.backend in ("auto", "mpi")
    methods = ["none", *(sorted(values.compression.keys() - {"none"}) if nodes > 1 and ours else ())]
    for stage in (0, 1, 2):
        for method in methods:
            made = changed(settings, {"hardware.zero_stage": stage, "distributed.compression": method})
            wanted = need(made, cluster.fullest(ranks), nodes).node
            ways = [OURS] if method != "none" or nodes == 1 else list(ALGORITHMS)
            for way in ways:
                seconds = step(values, made, cluster, ranks, way).seconds
                learns = method not in ("powersgd", "topk")
                found.append(Candidate(stage, method, way, seconds, wanted, wanted <= cluster.memory_bytes, learns))
    return sorted(found, key=lambda one: (not one.fits, one.step_s))
