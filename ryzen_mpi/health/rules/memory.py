"""Memory that runs short on a node: told, then smaller micro-batches, then saved and stopped in good time."""

from __future__ import annotations

import math
from collections import deque

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.samples import Sample, Samples
from ryzen_mpi.training.look import Look
from ryzen_mpi.units import bytes_text

LOW, SHORT, LAST = 1, 2, 3
"""Stages: told; smaller micro-batches; saved and stopped."""
SHARES = {LAST: 0.025, SHORT: 0.05, LOW: 0.10}
"""Of the memory there is (the node's, or the cgroup's limit) that is left at a stage, ..."""
MOST_BYTES = {LAST: 4 << 30, SHORT: 8 << 30, LOW: 16 << 30}
"""... and no more than this, on machines of which a tenth is much."""
PRESSED = 0.2
"""Share of the time in which some task waited for memory (PSI): with less than twice what LOW leaves, the stage counts
one higher."""
NUMA_FREE = 0.01
NUMA_PRESSED = 0.3
"""Of a NUMA domain: under so much pressure, told. Without it is usual: the kernel fills domains with cached files."""
HELD = 2
"""Samples in a row that a stage is held before something follows; at LAST one is enough."""
WAIT = 3
"""Samples after an act that are not answered: what was freed must show."""
OVER, OVER_SAMPLES = 1.25, 6
"""Over when for so many samples more is left than so many times what LOW leaves."""


class Memory(Rule):
    """Answers memory that runs short on a node: a word, half the micro-batch, in the end saving and stopping.

    Looks at: what each node or cgroup can still give against what it has, the share of the time in which tasks waited
    for memory (PSI; Weiner 2018, kernel documentation accounting/psi), what is free in a NUMA domain.
    Statistic: thresholds. 10 % left (16 GiB at most): told. 5 % (8 GiB): half the micro-batch, twice the accumulation,
    again until it is 1. 2.5 % (4 GiB): save and stop. Under pressure (20 % of the time) with less than 20 % left, one
    stage sooner. Two samples in a row, but at 2.5 %; over after 6 samples above 12.5 %.
    False alarms: none on a machine with a fifth of its memory left, whatever the pressure.
    Found: within 2 samples (monitor.sample_s each) of being so; save and stop at the first.
    """

    name = "memory"

    def __init__(self, samples: Samples, micro_batch: int) -> None:
        self._samples, self._micro_batch = samples, micro_batch
        self._nodes: dict[str, Node] = {}

    def took(self, act: Act) -> None:
        """A smaller micro-batch is everybody's."""
        if act.kind == "halve_micro_batch":
            self._micro_batch = max(1, self._micro_batch // 2)
            for node in self._nodes.values():
                node.wait, node.said = WAIT, min(node.said, LOW)

    def look(self, look: Look) -> list[Act]:
        acts: list[Act] = []
        for sample in self._samples.new(look):
            if sample.of_node and (acted := self._sample(sample)):
                acts.append(acted)
                if acted.kind == "halve_micro_batch":
                    break  # one a step, whatever the number of nodes
        return acts

    def _sample(self, sample: Sample) -> Act | None:
        left, whole = sample.value("memory_available_bytes"), sample.value("memory_limit_bytes")
        if not (math.isfinite(left) and math.isfinite(whole) and whole > 0):
            return None
        pressure = sample.value("memory_pressure")
        node = self._nodes.setdefault(sample.node, Node())
        stage = node.stage(left, whole, sample)
        if stage <= node.said:
            return self._over(node, sample, left, whole)
        node.said = stage
        said = f"{bytes_text(left)} of {bytes_text(whole)} left on {sample.node or 'the node'}"
        if pressure >= PRESSED:
            said += f", tasks waited for memory {100 * pressure:.0f} % of the time"
        figures = {"left_bytes": left, "memory_bytes": whole, "pressure": pressure}
        if stage == LAST:
            return self._act(sample, "save_and_stop", said, figures)
        if stage == SHORT and self._micro_batch > 1:
            smaller = self._micro_batch // 2
            return self._act(sample, "halve_micro_batch", f"{said}: micro-batches of {smaller}", figures)
        if stage == SHORT:
            said += "; micro-batches are of one sample already"
        return self._act(sample, "warn", said, figures)

    def _over(self, node: Node, sample: Sample, left: float, whole: float) -> Act | None:
        """Told when what was told is over."""
        if not node.said or node.plenty < OVER_SAMPLES:
            return None
        node.said = 0
        said = f"{bytes_text(left)} of {bytes_text(whole)} left on {sample.node or 'the node'} again"
        return self._act(sample, "warn", said, {"left_bytes": left, "memory_bytes": whole, "over": 1})

    def _act(self, sample: Sample, kind: str, said: str, figures: dict) -> Act:
        return self.act(sample.look, kind, said, node=sample.node, **figures)


class Node:
    """How short memory is on a node, over its samples."""

    def __init__(self) -> None:
        self.said, self.wait, self.plenty = 0, 0, 0
        self._newest: deque[int] = deque(maxlen=HELD)

    def stage(self, left: float, whole: float, sample: Sample) -> int:
        """The stage that has been held for long enough; 0 where nothing is short, or an act is waited for."""
        now = stage_of(left, whole, sample)
        self._newest.append(now)
        self.plenty = self.plenty + 1 if left > OVER * least(LOW, whole) and now == 0 else 0
        self.wait = max(0, self.wait - 1)
        if left < least(LAST, whole):
            return LAST
        return min(self._newest) if len(self._newest) == HELD and not self.wait else 0


def least(stage: int, whole: float) -> float:
    """Bytes below which `stage` begins on a machine of `whole` bytes. Pure."""
    return min(SHARES[stage] * whole, MOST_BYTES[stage])


def stage_of(left: float, whole: float, sample: Sample) -> int:
    """How short memory is in a sample of a node, from 0 to LAST. Pure."""
    stage = next((stage for stage in (LAST, SHORT, LOW) if left < least(stage, whole)), 0)
    pressure = sample.value("memory_pressure")
    if pressure >= PRESSED and left < 2 * least(LOW, whole):
        return min(LAST, stage + 1)
    free, used = sample.value("numa_free_bytes"), sample.value("numa_used_bytes")
    if pressure >= NUMA_PRESSED and free < NUMA_FREE * (free + used):
        return max(stage, LOW)
    return stage
