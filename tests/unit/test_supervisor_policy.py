"""What is started next: bounds that hold for every situation, and the decisions a person would make."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.supervisor.policy import BACKOFF_S, STRIKES, GiveUp, Situation, Start, decide, place

NODES = ("n1", "n2", "n3")
CALM = Situation(12, 4, 1, NODES, {}, 0, "", 5)
names = st.lists(st.sampled_from([f"n{number}" for number in range(8)]), unique=True, max_size=8)


@st.composite
def situations(draw):
    nodes = draw(names)
    per_node, least = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    strikes = draw(st.dictionaries(st.sampled_from([f"n{number}" for number in range(8)]), st.integers(0, 6)))
    wanted, fruitless = draw(st.integers(least, 48)), draw(st.integers(0, 8))
    return Situation(wanted, per_node, least, nodes, strikes, fruitless, "x", draw(st.integers(0, 6)))


@given(situations())
def test_an_attempt_always_fits_its_nodes_and_the_wish(now):
    start = decide(now)
    if isinstance(start, GiveUp):
        assert start.why and start.advice
        assert now.fruitless > now.retries or len(now.answering) * now.per_node < now.least
        return
    assert now.fruitless <= now.retries
    assert now.least <= start.ranks <= min(now.wanted, len(now.answering) * now.per_node)
    assert sum(start.hosts.values()) == start.ranks
    assert set(start.hosts) <= set(now.answering)
    assert all(0 < count <= now.per_node for count in start.hosts.values())
    assert start.after_s in BACKOFF_S
    left_out = {node for node in now.answering if now.strikes.get(node, 0) >= STRIKES}
    if (len(now.answering) - len(left_out)) * now.per_node >= now.least:
        assert not set(start.hosts) & left_out
    if start.ranks < now.wanted:
        assert start.why


@given(st.integers(1, 200), st.integers(1, 16))
def test_ranks_are_placed_evenly_on_as_few_nodes_as_hold_them(ranks, per_node):
    hosts = place(ranks, [f"n{number}" for number in range(200)], per_node)
    assert sum(hosts.values()) == ranks and len(hosts) == -(-ranks // per_node)
    assert max(hosts.values()) <= per_node and max(hosts.values()) - min(hosts.values()) <= 1
    assert list(hosts) == [f"n{number}" for number in range(len(hosts))]


def test_nothing_wrong_starts_what_was_asked_for_at_once():
    assert decide(CALM) == Start(12, {"n1": 4, "n2": 4, "n3": 4}, 0.0, "")


def test_attempts_that_get_nowhere_wait_longer_and_get_smaller():
    starts = [decide(replace(CALM, fruitless=number)) for number in range(6)]
    assert [start.ranks for start in starts] == [12, 12, 6, 3, 1, 1]
    assert [start.after_s for start in starts] == [0, 2, 5, 15, 60, 60]
    assert "2 attempts got nowhere" in starts[2].why
    assert decide(replace(CALM, fruitless=4, least=5)).ranks == 5


def test_after_the_retries_it_gives_up_and_says_why_and_what_to_do():
    end = decide(replace(CALM, fruitless=6, last="rank 3 on n1 was killed by SIGSEGV"))
    assert isinstance(end, GiveUp) and "rank 3 on n1 was killed by SIGSEGV" in end.why and "start again" in end.advice
    assert isinstance(decide(replace(CALM, fruitless=1, retries=0)), GiveUp)
    assert isinstance(decide(replace(CALM, retries=0)), Start)


def test_a_lost_node_leaves_what_the_others_hold():
    start = decide(replace(CALM, answering=("n1", "n3")))
    assert start.hosts == {"n1": 4, "n3": 4} and "2 nodes hold 8 ranks" in start.why
    end = decide(replace(CALM, answering=("n2",), least=8))
    assert isinstance(end, GiveUp) and "n2" in end.why and "8" in end.why
    assert isinstance(decide(replace(CALM, answering=())), GiveUp)


def test_a_node_with_too_many_faults_is_left_out_only_while_the_others_can_do_the_work():
    start = decide(replace(CALM, strikes={"n2": STRIKES}))
    assert start.hosts == {"n1": 4, "n3": 4} and "left out after 3 faults: n2" in start.why
    assert decide(replace(CALM, strikes={"n2": STRIKES - 1})).ranks == 12
    assert decide(replace(CALM, strikes={"n2": STRIKES}, least=12)).ranks == 12
    assert decide(replace(CALM, strikes=dict.fromkeys(NODES, 9))).ranks == 12
