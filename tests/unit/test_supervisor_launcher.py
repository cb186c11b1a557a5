"""The command of an attempt: the person's, with other numbers, hosts and guards in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ryzen_mpi.errors import UserError
from ryzen_mpi.supervisor.launcher import Command, option, overrides, parse

PROGRAM = ("python", "-m", "ryzen_mpi.train")
PLAN = Path("plan.json")
GUARDED = [sys.executable, "-m", "ryzen_mpi.supervisor.guard", "plan.json", "--", *PROGRAM]


@pytest.mark.parametrize(
    ("launcher", "kind", "ranks", "rest"),
    [
        ("mpirun -np 4", "mpirun", 4, ["mpirun"]),
        ("mpirun -n 4", "mpirun", 4, ["mpirun"]),
        ("mpirun --np 4", "mpirun", 4, ["mpirun"]),
        ("mpirun --np=4", "mpirun", 4, ["mpirun"]),
        ("mpirun -c 4", "mpirun", 4, ["mpirun"]),
        ("/opt/mpi/bin/mpiexec -n 12", "mpirun", 12, ["/opt/mpi/bin/mpiexec"]),
        (
            "mpirun --bind-to none -np 2 -x OMP_NUM_THREADS --mca btl tcp,self",
            "mpirun",
            2,
            ["mpirun", "--bind-to", "none", "-x", "OMP_NUM_THREADS", "--mca", "btl", "tcp,self"],
        ),
        ("mpirun --map-by ppr:4:node", "mpirun", None, ["mpirun", "--map-by", "ppr:4:node"]),
        ("srun -n 3 --mpi=pmix", "srun", 3, ["srun", "--mpi=pmix"]),
        ("srun -n3 --mpi=pmix", "srun", 3, ["srun", "--mpi=pmix"]),
        ("srun --ntasks=3 -c 2", "srun", 3, ["srun", "-c", "2"]),
        ("auto", "auto", None, ["auto"]),
        ("auto -np 4", "auto", 4, ["auto"]),
        ("", "none", 1, []),
    ],
)
def test_the_number_of_ranks_is_taken_out_and_everything_else_kept(launcher, kind, ranks, rest):
    command = parse([*launcher.split(), *PROGRAM])
    assert (command.kind, command.ranks, list(command.launcher)) == (kind, ranks, rest)
    assert command.program == PROGRAM


@pytest.mark.parametrize("program", ["python3.11", "/usr/bin/python3", "ryzen-mpi", "/venv/bin/ryzen-mpi"])
def test_the_program_begins_with_an_interpreter_or_this_packages_command(program):
    assert parse(["mpirun", "-np", "2", program, "-np", "9"]).program == (program, "-np", "9")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "nothing to supervise"),
        ("mpirun -np 4", "no program in 'mpirun -np 4'"),
        ("mpirun -np 4 ./train.sh", "no program"),
        ("jsrun -n 4 python x.py", "launcher 'jsrun' is not known"),
        ("mpirun -np four python x.py", "-np four: not a number of ranks"),
        ("mpirun -np 0 python x.py", "-np 0: not a number of ranks"),
        ("mpirun -np -2 python x.py", "-np -2: not a number of ranks"),
        ("mpirun --np= python x.py", "--np : not a number of ranks"),
        ("mpirun -np python x.py", "-np : not a number of ranks"),
    ],
)
def test_what_cannot_be_started_again_with_other_numbers_is_refused_with_an_example(words, told):
    with pytest.raises(UserError) as refusal:
        parse(words.split())
    assert told in str(refusal.value) and refusal.value.hint


def test_an_attempts_words_hold_its_ranks_its_hosts_its_guards_and_its_settings():
    command = parse(["mpirun", "-np", "8", "--bind-to", "none", *PROGRAM])
    words = command.words(6, {"n1": 3, "n3": 3}, PLAN, ["a.b=1"])
    assert words == ["mpirun", "--bind-to", "none", "-np", "6", "--host", "n1:3,n3:3", *GUARDED, "a.b=1"]
    assert command.words(1, {}, PLAN) == ["mpirun", "--bind-to", "none", "-np", "1", *GUARDED]


def test_srun_gets_its_nodes_by_name():
    words = parse(["srun", "-n", "8", "--mpi=pmix", *PROGRAM]).words(4, {"n1": 2, "n3": 2}, PLAN)
    where = ["-n", "4", "--nodes=2", "--nodelist=n1,n3", "--ntasks-per-node=2"]
    assert words == ["srun", "--mpi=pmix", *where, *GUARDED]


def test_a_program_alone_is_guarded_too():
    assert parse(list(PROGRAM)).words(1, {}, PLAN) == GUARDED


@pytest.mark.parametrize("name", ["mpirun", "srun"])
def test_auto_becomes_a_launcher_that_leaves_the_cores_to_this_package(name):
    words = parse(["auto", *PROGRAM]).with_launcher(name).words(2, {"n1": 2}, PLAN)
    assert words[0] == name and "none" in " ".join(words[: words.index(sys.executable)])
    assert "auto" not in words


def test_options_and_overrides_of_the_program_are_found():
    program = ("python", "-m", "t", "--run-dir", "a", "--config=b", "x.y=1", "data.paths=/p/q.txt", "--z.y=1", "k=v")
    assert (option(program, "--run-dir"), option(program, "--config"), option(program, "--resume")) == ("a", "b", None)
    assert option(("python", "--run-dir"), "--run-dir") is None
    assert overrides(program) == ["x.y=1", "data.paths=/p/q.txt"]


def test_a_command_without_a_count_keeps_its_launcher():
    assert parse(["mpirun", *PROGRAM]) == Command(("mpirun",), None, PROGRAM)
