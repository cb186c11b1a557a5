"""What a run's figures suggest: one small rule a function, from what was recorded to words. All are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ryzen_mpi.cluster.topology import cpulist_text
from ryzen_mpi.report.content import Advice, by_urgency
from ryzen_mpi.report.run_facts import Place, RunFacts
from ryzen_mpi.report.run_measures import (
    communication_share,
    drift,
    memory_growth,
    newest_world,
    slow_ranks,
    spikes,
    throughput,
)
from ryzen_mpi.report.texts import listed, number_text, plural
from ryzen_mpi.units import bytes_text, duration_text

UNBALANCED = 0.05
"""A rank that computes longer than the others by more is slow (E6: balance of the ranks within 5 %)."""
COMMUNICATION_WATCH, COMMUNICATION_ACT = 0.10, 0.20
"""Phase 1's limits of the communication share: sought, and no-go."""
MEMORY_LIMIT = 0.85
"""Of a node's memory (E6)."""
DRIFT = 0.02
HELD = 0.02
"""Share of a run's time that saving may hold the steps up."""
ENOUGH_STEPS, WIDE = 30, 0.05


def advise(facts: RunFacts) -> tuple[Advice, ...]:
    """All that the rules have to say of a run, what asks for an act first."""
    return by_urgency(advice for rule in RULES for advice in rule(facts))


def slow_rank(facts: RunFacts) -> Iterator[Advice]:
    """A rank that surely (the interval's lower bound) computes longer than the others: all wait for it."""
    places = {place.rank: place for place in facts.places}
    for slow in slow_ranks(facts):
        if slow.more.low > UNBALANCED:
            cause, remedy = _why_slow(places.get(slow.rank), facts.places)
            percent = 100 * slow.more.value
            share = number_text(round(percent) if percent >= 10 else round(percent, 1))
            yield Advice("act", f"rank {slow.rank} is {share} % slower than the others", cause, remedy)


def _why_slow(place: Place | None, places: Iterable[Place]) -> tuple[str, str]:
    """The cause of a slow rank as far as the places tell, and what to do."""
    if place is None or place.cpus is None:
        return (
            "where the ranks ran was not recorded, so the cause is not known",
            "compare the start-up table's cores and threads of the ranks",
        )
    others = [other for other in places if other.rank != place.rank and other.cpus is not None]
    sharing = [o.rank for o in others if o.host == place.host and o.cpus & place.cpus]
    if sharing:
        whose = f"rank{'s' if len(sharing) > 1 else ''} {listed([str(rank) for rank in sharing])}"
        return (
            f"bound to the cores of {whose} ({cpulist_text(place.cpus)} of {place.host})",
            "give every rank cores of its own: fewer ranks on the node, or mpirun --map-by numa without an own binding",
        )
    most = max((len(other.cpus) for other in others), default=0)
    if len(place.cpus) < most:
        fewer = f"it has {plural(len(place.cpus), 'core')} where others have {most}"
        return fewer, f"even out the ranks' cores on {place.host}"
    usual = max((other.threads or 0 for other in others), default=0)
    if place.threads is not None and place.threads < usual:
        fewer = f"it computes with {plural(place.threads, 'thread')} where others have {usual}"
        return fewer, "leave hardware.num_threads and OMP_NUM_THREADS to the program"
    neighbours = [o.rank for o in others if o.host == place.host]
    where = "alone on" if not neighbours else f"beside {plural(len(neighbours), 'rank')} on"
    return (
        f"its cores are its own ({cpulist_text(place.cpus)}, {where} {place.host}), so the cause lies outside the job",
        f"look on {place.host} for another program on these cores, a lower clock or a hot package",
    )


def shared_cores(facts: RunFacts) -> Iterator[Advice]:
    """Ranks of one host that are bound to the same cores."""
    pairs = [
        (one, other)
        for one in facts.places
        for other in facts.places
        if one.rank < other.rank and one.host == other.host and one.cpus and other.cpus and one.cpus & other.cpus
    ]
    if not pairs:
        return
    ranks = sorted({place.rank for pair in pairs for place in pair})
    cores = cpulist_text(set().union(*(one.cpus & other.cpus for one, other in pairs)))
    yield Advice(
        "watch",
        f"ranks {listed([str(rank) for rank in ranks])} share cores ({cores} of {pairs[0][0].host})",
        "there are more threads than cores, so every rate here is that of an oversubscribed machine",
        "start fewer ranks on the node, or none but this job",
    )


def communication(facts: RunFacts) -> Iterator[Advice]:
    """Much of the time blocked in collectives: because of a slow rank, or of the network."""
    share = communication_share(facts)
    if share is None or share.value <= COMMUNICATION_WATCH:
        return
    slow = [s.rank for s in slow_ranks(facts) if s.more.low > UNBALANCED]
    hosts = {place.host for place in facts.places}
    if slow:
        why = f"the others wait for rank {listed([str(rank) for rank in slow])}"
        remedy = "see to the slow rank first"
    elif len(hosts) > 1:
        why = f"the gradients cross the network between {len(hosts)} hosts, or the steps are too small for it"
        remedy = "try a larger global batch (gradient_accumulation_steps), distributed.compression=bfloat16"
    else:
        why = "the ranks are on one host and even: the steps are small against the cost of a collective"
        remedy = "try a larger batch_size or gradient_accumulation_steps"
    level = "act" if share.value > COMMUNICATION_ACT else "watch"
    yield Advice(level, f"{100 * share.value:.3g} % of a step is communication", why, remedy)


def checkpoints(facts: RunFacts) -> Iterator[Advice]:
    """Work that the next failure would cost, and steps held up by saving."""
    steps = facts.steps
    if steps is None:
        return
    last, newest = int(steps.step[-1]), max((step for step, _ in facts.checkpoints), default=0)
    interval = (facts.settings.get("training") or {}).get("save_interval")
    lost = steps.at(steps.step > newest)
    if isinstance(interval, int) and last - newest > interval and facts.complete is None:
        what = f"the newest checkpoint is of step {newest}" if newest else "there is no checkpoint"
        at_risk = duration_text(float(np.sum(lost.step_s)))
        why = f"{plural(last - newest, 'step')} ({at_risk}) would be lost, more than save_interval={interval} allows"
        yield Advice("act", what, why, "look for failed saves in the events, and at the space on the disk")
    held, seconds = ((facts.complete or {}).get(name) for name in ("checkpoint_held_s", "seconds"))
    if isinstance(held, (int, float)) and isinstance(seconds, (int, float)) and seconds > 0 and held > HELD * seconds:
        what = f"saving held the steps up for {100 * held / seconds:.3g} % of the time"
        why = f"{duration_text(held)} of {duration_text(seconds)}: the disk is slower than save_interval asks"
        yield Advice("watch", what, why, "save less often, or to a faster disk")


def memory(facts: RunFacts) -> Iterator[Advice]:
    """Resident memory near what the nodes have, or growing."""
    steps = facts.measured()
    if steps is None:
        return
    peak = np.nanmax(np.nan_to_num(newest_world(steps).rank_rss_bytes), axis=0)
    by_host: dict[str, list[Place]] = {}
    for place in facts.places:
        by_host.setdefault(place.host, []).append(place)
    for host, places in by_host.items():
        limits = [place.node_memory_bytes for place in places if place.node_memory_bytes]
        used = sum(float(peak[place.rank]) for place in places if place.rank < len(peak))
        if limits and used > MEMORY_LIMIT * min(limits):
            what = f"the ranks on {host} hold {100 * used / min(limits):.3g} % of its memory"
            why = f"{bytes_text(used)} of {bytes_text(min(limits))}; what ranks share counts once a rank"
            yield Advice("act", what, why, "hardware.zero_stage=2, hardware.gradient_checkpoint=true, or fewer ranks")
    growth = memory_growth(facts)
    if growth is not None and growth.low > DRIFT and growth.change > UNBALANCED:
        what = f"memory grew by {100 * growth.change:.3g} % from the first to the last step"
        yield Advice("watch", what, "something is kept that should be let go", "watch whether it goes on growing")


def losses(facts: RunFacts) -> Iterator[Advice]:
    """Losses that are no numbers, steps skipped, spikes."""
    steps = facts.steps
    if steps is None:
        return
    broken = [int(step) for step in steps.step[~np.isfinite(steps.loss)]]
    if broken:
        what = f"the loss was no number at {plural(len(broken), 'step')} ({_some(broken)})"
        remedy = "lower training.learning_rate or training.clip_norm; float32 in place of bfloat16 tells which it is"
        yield Advice("act", what, "the training diverged, or a value overflowed", remedy)
    skipped = [int(step) for step in steps.step[steps.skipped > 0] if int(step) not in broken]
    if skipped:
        what = f"{plural(len(skipped), 'step')} skipped ({_some(skipped)})"
        yield Advice("watch", what, "the gradients were not finite on some rank", "a few are harmless, many are not")
    if found := spikes(steps):
        what = f"the loss spiked at {plural(len(found), 'step')} ({_some(found)})"
        remedy = "a longer warm-up or a lower training.clip_norm calms it; a restart at that step explains it as well"
        yield Advice("watch", what, "far above the steps before", remedy)


def restarts(facts: RunFacts) -> Iterator[Advice]:
    """Faults that the run survived, failures it recorded, and what they cost."""
    broken = [restart for restart in facts.restarts if not restart.planned]
    if broken:
        ettr = (facts.account or {}).get("ettr")
        cost = f"; {100 * ettr:.3g} % of the time was productive" if isinstance(ettr, (int, float)) else ""
        what = f"{plural(len(broken), 'restart')} after a fault"
        yield Advice("act", what, f"the last: {broken[-1].why}{cost}", "mend the cause that comes again")
    elif facts.troubles:
        what = f"{plural(len(facts.troubles), 'failure')} recorded"
        yield Advice("act", what, facts.troubles[-1], "mend the cause before the run goes on")


def declining(facts: RunFacts) -> Iterator[Advice]:
    """A slow decline of throughput that no single step shows."""
    found = drift(facts)
    if found is not None and found.high < 0 and found.change < -DRIFT:
        what = f"throughput fell by {-100 * found.change:.3g} % from the first to the last step"
        spread = f"95 % interval {-100 * found.high:.3g} to {-100 * found.low:.3g} %, Theil-Sen over {found.n} steps"
        remedy = "compare clock and temperature of the packages at begin and end, and memory growth"
        yield Advice("watch", what, spread, remedy)


def certainty(facts: RunFacts) -> Iterator[Advice]:
    """Too few steps, or an interval too wide to decide anything."""
    rate = throughput(facts)
    if rate is None:
        return
    if rate.n < ENOUGH_STEPS:
        what = f"throughput rests on {plural(rate.n, 'step')}"
        yield Advice("note", what, f"fewer than {ENOUGH_STEPS} say little", "train longer before comparing")
    elif rate.high - rate.low > 2 * WIDE * rate.value:
        wide = 50 * (rate.high - rate.low) / rate.value
        what = f"throughput is known to ±{wide:.2g} % only"
        yield Advice("note", what, "the steps differ much from one another", "look for other work on the machine")


def _some(steps: list[int]) -> str:
    return listed([str(step) for step in steps])


RULES: tuple[Callable[[RunFacts], Iterator[Advice]], ...] = (
    slow_rank,
    shared_cores,
    communication,
    checkpoints,
    memory,
    losses,
    restarts,
    declining,
    certainty,
)
