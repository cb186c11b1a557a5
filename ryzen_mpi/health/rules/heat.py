"""Processors that slow down because of heat: fewer threads on that node, or pauses, and back."""

from __future__ import annotations

from collections.abc import Sequence

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.samples import Sample, Samples
from ryzen_mpi.training.look import Look

LIMIT_C = 95.0
"""At which current processors begin to slow down: 95 to 100 degrees."""
COOL_C = 85.0
HOT_SAMPLES = 2
"""Samples in a row that are hot before something follows, and between two acts."""
COOL_SAMPLES = 6
"""Samples in a row that are cool before all threads come back; twice as many each time it got hot again at once."""
AT_ONCE = 20
"""Samples after which it no longer does."""
MOST_PATIENCE = 8
PAUSE_S = 10.0


class Heat(Rule):
    """Halves the threads of a node that throttles, pauses where they are one, and gives them back when it is cool.

    Looks at: how often the processors of each node slowed down because of heat since the sample before, and their
    highest temperature. Without a sensor (NaN) it never acts.
    Statistic: hot is a sample with throttling or 95 degrees C, cool one without and below 85. Two hot samples in a row
    (one is an event, two a state): half the threads, after two more hot ones half of these, in the end pauses of 10 s
    for all. Six cool samples in a row: all threads again; where it then gets hot within 20 samples, twelve the next
    time, and so on to 48: so it does not swing.
    False alarms: none on a machine that neither throttles nor reaches 95 degrees in two samples running.
    Found: within 2 samples (monitor.sample_s each).
    """

    name = "heat"

    def __init__(self, samples: Samples, threads: Sequence[int]) -> None:
        """`threads`: every rank's, in rank order; where they are not known a node pauses."""
        self._samples, self._threads = samples, tuple(threads)
        self._nodes: dict[str, Node] = {}

    def took(self, act: Act) -> None:
        """What was carried out on a node is what the next act goes on from."""
        node = self._nodes.get(act.node)
        if node is not None and act.rule == self.name:
            node.asked = False
            node.threads = int(act.figures.get("threads", node.threads))

    def look(self, look: Look) -> list[Act]:
        return [act for sample in self._samples.new(look) if (act := self._sample(sample))]

    def _sample(self, sample: Sample) -> Act | None:
        throttles, temperature = sample.most("throttles"), sample.most("temperature_c")
        node = self._nodes.get(sample.node)
        if node is None:
            node = self._nodes[sample.node] = Node(self._most(sample))
        figures = {"throttles": throttles, "temperature_c": temperature}
        if throttles > 0 or temperature >= LIMIT_C:
            return self._hot(node, sample, figures) if node.hot_long_enough() else None
        if not (throttles == 0 or temperature < COOL_C):
            return None  # no sensor, or between the two temperatures without counts
        cool = not temperature >= COOL_C
        return self._cool(node, sample, figures) if node.cool_long_enough(cool) else None

    def _hot(self, node: Node, sample: Sample, figures: dict) -> Act | None:
        if node.asked:  # nothing came of what was asked: once is enough
            return None
        node.asked, node.limited = True, True
        said = f"{sample.node or 'the node'} throttles" if figures["throttles"] > 0 else f"{sample.node} is hot"
        if (temperature := figures["temperature_c"]) == temperature:
            said += f" at {temperature:.0f} degrees C"
        if node.threads > 1:
            threads = node.threads // 2
            said += f": {threads} threads a rank in place of {node.threads}"
            return self._act(sample, "fewer_threads", said, figures | {"threads": threads})
        return self._act(sample, "pause", f"{said}: a pause of {PAUSE_S:.0f} s", figures | {"seconds": PAUSE_S})

    def _cool(self, node: Node, sample: Sample, figures: dict) -> Act | None:
        if not node.limited:
            return None
        fewer = node.threads < node.most
        node.give_back()
        if not fewer:
            return None
        said = f"{sample.node or 'the node'} has been cool for {node.needed_before} samples: all {node.most} threads"
        return self._act(sample, "all_threads", said, figures | {"threads": node.most})

    def _most(self, sample: Sample) -> int:
        return max((self._threads[rank] for rank in sample.ranks if rank < len(self._threads)), default=1)

    def _act(self, sample: Sample, kind: str, said: str, figures: dict) -> Act:
        return self.act(sample.look, kind, said, node=sample.node, **figures)


class Node:
    """How hot a node has been, over its samples."""

    def __init__(self, threads: int) -> None:
        self.most = self.threads = threads
        self.limited = self.asked = False
        self.needed = self.needed_before = COOL_SAMPLES
        self._hot = self._cool = 0
        self._since_cool = AT_ONCE

    def hot_long_enough(self) -> bool:
        """A hot sample has come; whether it is time for an act."""
        if self._since_cool < AT_ONCE and not self.limited and self._hot == 0:
            self.needed = min(2 * self.needed, MOST_PATIENCE * COOL_SAMPLES)
        self._since_cool += 1
        self._cool, self._hot = 0, self._hot + 1
        if self._hot < HOT_SAMPLES:
            return False
        self._hot = 0
        return True

    def cool_long_enough(self, cool: bool) -> bool:
        """A sample that is not hot has come, `cool` or warm; whether it is time to go back."""
        self._since_cool += 1
        if self._since_cool == AT_ONCE and not self.limited:
            self.needed = COOL_SAMPLES
        self._hot, self._cool = 0, self._cool + 1 if cool else 0
        return self._cool >= self.needed

    def give_back(self) -> None:
        """All threads again."""
        self.threads, self.limited, self.asked = self.most, False, False
        self.needed_before, self._cool, self._since_cool = self.needed, 0, 0
