"""How long a check may take: longer where its ranks share cores and take turns."""

import pytest

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.validation.registry import Check, Context
from ryzen_mpi.validation.runner import Plan, limit_s
from ryzen_mpi.validation.thresholds import load_rules


@pytest.mark.parametrize(
    ("where", "ranks", "nodes", "cores", "wanted"),
    [
        ("ranks", 4, 1, 16, 100),
        ("ranks", 4, 1, 2, 200),
        ("driver", 16, 4, 2, 200),
        ("ranks", 16, 1, 2, 800),
        ("nodes", 16, 4, 2, 100),
        ("one", 16, 1, 2, 100),
    ],
)
def test_ranks_that_share_cores_have_as_much_more_time(where, ranks, nodes, cores, wanted):
    check = Check("some", ("E1",), "", where, 100.0, lambda context: None)
    names = tuple(f"node{number}" for number in range(nodes)) if nodes > 1 else ()
    plan = Plan(phase("1"), load_rules("1"), [check], ranks, Nodes(names))
    assert limit_s(check, plan, cores) == wanted
    longer = Plan(phase("1"), load_rules("1"), [check], ranks, Nodes(names), options={"duration_s": 30.0})
    assert limit_s(check, longer, cores) == wanted + 30


def test_a_check_that_launches_knows_how_many_ranks_share_a_core(monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    context = Context(phase("2b"), 12, tmp_path, nodes=Nodes(("node1", "node2", "node3")))
    assert (context.crowd(), context.crowd(24), context.crowd(1)) == (2, 4, 1)
    assert Context(phase("1"), 4, tmp_path, nodes=Nodes()).crowd() == 2
