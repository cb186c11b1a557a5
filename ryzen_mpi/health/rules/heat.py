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
HOT_SAMPLES = 3
"""Samples of a rank in a row that are hot before something follows, and between two acts: one is an event."""
COOL_SAMPLES = 6
"""Samples in a row in which all ranks of the node are cool before all threads come back; ..."""
AT_ONCE = 20
"""... twice as many, when it got hot within so many samples of that, ..."""
MOST_PATIENCE = 8
"""... up to so many times as many."""
PAUSE_S = 10.0


class Heat(Rule):
    """Halves the threads of a node that throttles, pauses where they are one, and gives them back when it is cool.

    Looks at: how often each rank's processors slowed down because of heat since the sample before, and the highest
    temperature of its node. Without a sensor (NaN) it never acts.
    Statistic: hot is a sample with throttling or 95 degrees C, cool one without and below 85. Three hot samples of a
    rank in a row: half the threads on its node, after three more half of these, in the end pauses of 10 s for all. Six
    cool samples of all its ranks: all threads again; where it then gets hot within 20 samples, twelve the next time,
    and so on to 48: so it does not swing.
    False alarms: none where no rank throttles, or reaches 95 degrees, in three samples running; where one sample in a
    thousand tells of throttling, one in 10^9.
    Found: within 3 samples (monitor.sample_s each).
    """

    name = "heat"

    def __init__(self, samples: Samples, threads: Sequence[int]) -> None:
        """`threads`: every rank's, in rank order; where they are not known a node pauses."""
        self._samples, self._threads = samples, tuple(threads)
        self._nodes: dict[str, Node] = {}

    def took(self, act: Act) -> None:
        """What was carried out on a node is what the next act goes on from."""
        node = self._nodes.get(act.node)
        if node is not None and act.rule == self.name and act.kind != "warn":
            node.asked = False
            node.threads = int(act.figures.get("threads", node.threads))

    def look(self, look: Look) -> list[Act]:
        return [act for sample in self._samples.new(look) if (act := self._sample(sample))]

    def _sample(self, sample: Sample) -> Act | None:
        throttles, temperature = sample.value("throttles"), sample.value("temperature_c")
        node = self._nodes.get(sample.node)
        if node is None:
            node = self._nodes[sample.node] = Node(sample.ranks, self._most(sample))
        figures = {"throttles": throttles, "temperature_c": temperature}
        if throttles > 0 or temperature >= LIMIT_C:
            return self._hot(node, sample, figures) if node.hot_long_enough(sample.rank) else None
        if throttles != throttles and temperature != temperature:
            return None  # no sensor
        cool = not temperature >= COOL_C
        return self._cool(node, sample, figures) if node.cool_long_enough(sample.rank, cool) else None

    def _hot(self, node: Node, sample: Sample, figures: dict) -> Act | None:
        node.limited = True
        if node.asked:  # nothing came of what was asked: once is enough
            return None
        node.asked = True
        said = f"{sample.node or 'the node'} {'throttles' if figures['throttles'] > 0 else 'is hot'}"
        if (temperature := figures["temperature_c"]) == temperature:
            said += f" at {temperature:.0f} degrees C"
        if node.threads > 1:
            threads = node.threads // 2
            said += f": {threads} threads a rank in place of {node.threads}"
            return self._act(sample, "fewer_threads", said, figures | {"threads": threads})
        return self._act(sample, "pause", f"{said}: a pause of {PAUSE_S:.0f} s", figures | {"seconds": PAUSE_S})

    def _cool(self, node: Node, sample: Sample, figures: dict) -> Act | None:
        fewer, samples = node.threads < node.most, node.needed
        node.give_back()
        if not fewer:
            return None
        said = f"{sample.node or 'the node'} has been cool for {samples} samples: all {node.most} threads again"
        return self._act(sample, "all_threads", said, figures | {"threads": node.most})

    def _most(self, sample: Sample) -> int:
        return max((self._threads[rank] for rank in sample.ranks if rank < len(self._threads)), default=1)

    def _act(self, sample: Sample, kind: str, said: str, figures: dict) -> Act:
        return self.act(sample.look, kind, said, node=sample.node, **figures)


class Node:
    """How hot a node has been, over the samples of its ranks."""

    def __init__(self, ranks: Sequence[int], threads: int) -> None:
        self.most = self.threads = threads
        self.limited = self.asked = False
        self.needed = COOL_SAMPLES
        self._hot, self._cool = dict.fromkeys(ranks, 0), dict.fromkeys(ranks, 0)
        self._given_back: dict[int, int] | None = None  # samples of each rank since then

    def hot_long_enough(self, rank: int) -> bool:
        """A hot sample of a rank has come; whether it is time for an act."""
        self._count(rank)
        self._cool[rank] = 0
        self._hot[rank] += 1
        if self._hot[rank] < HOT_SAMPLES:
            return False
        if not self.limited and self._given_back is not None:
            self.needed = min(2 * self.needed, MOST_PATIENCE * COOL_SAMPLES)
        self._hot = {other: 0 if other == rank else -1 for other in self._hot}  # the others' of now count as seen
        return True

    def cool_long_enough(self, rank: int, cool: bool) -> bool:
        """A sample of a rank that is not hot has come, `cool` or warm; whether it is time to go back."""
        self._count(rank)
        self._hot[rank], self._cool[rank] = 0, self._cool[rank] + 1 if cool else 0
        return self.limited and min(self._cool.values()) >= self.needed

    def give_back(self) -> None:
        """All threads again."""
        self.threads, self.limited, self.asked = self.most, False, False
        self._cool = dict.fromkeys(self._cool, 0)
        self._given_back = dict.fromkeys(self._cool, 0)

    def _count(self, rank: int) -> None:
        if self._given_back is not None and not self.limited:
            self._given_back[rank] += 1
            if self._given_back[rank] > AT_ONCE:
                self._given_back, self.needed = None, COOL_SAMPLES
