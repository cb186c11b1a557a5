"""What a person sees: rank 0 alone, values as they are, a bounded log."""

from __future__ import annotations

import pytest

from ryzen_mpi import console
from ryzen_mpi.console import Console
from ryzen_mpi.units import bytes_text, count_text, duration_text, rate_text


def test_only_the_leader_prints(capsys):
    quiet = Console(leader=False)
    quiet.line("a"), quiet.warn("b"), quiet.table("c", [("d",)], ("e",))
    with quiet.progress(3, 0) as progress:
        progress.update(3, 1.0, 2.0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "a[1:o:2]", "x[:cat:]", "[/x]", "back\\slash\\", "[red]"])
def test_text_is_shown_as_it_is(capsys, text):
    loud = Console(leader=True)
    loud.line(text)
    loud.table("title", [(text, text)], ("a", "b"))
    assert capsys.readouterr().out.count(text) == 3


def test_a_long_line_is_not_folded_and_warnings_go_to_standard_error(capsys):
    loud = Console(leader=True)
    loud.line("x" * 500)
    loud.warn("careful")
    out, err = capsys.readouterr()
    assert out == "x" * 500 + "\n" and err == "warning: careful\n"


def test_a_log_gets_the_first_and_the_last_step_and_few_between(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with Console(leader=True).progress(100, 0) as progress:
        for step in range(1, 101):
            clock[0] += 1.0
            progress.update(step, 2.5, 1234.5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in (*range(1, 100, 10), 100)]
    assert lines[1] == "step 11/100  loss 2.5000  1,234 samples/s  1 min 29 s left"


def test_time_left_counts_from_where_a_resumed_run_began(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress = Console(leader=True).progress(total=110, start=100)
    clock[0] = 8.0
    assert progress.left_text(104) == "12.0 s"
    assert progress.left_text(101) == "?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"), (bytes_text(1536), "1.5 KiB"), (bytes_text(3 << 50), "3072.0 TiB"),
        (duration_text(0.85), "850 ms"), (duration_text(12.34), "12.3 s"), (duration_text(125), "2 min 05 s"),
        (duration_text(3599.7), "1 h 00 min"), (duration_text(11220), "3 h 07 min"),
        (count_text(999), "999"), (count_text(1_234_567), "1.23 M"), (count_text(999_600), "1 M"),
        (count_text(2_558_000_000), "2.56 G"), (count_text(999_999_999), "1 G"),
        (rate_text(0.01234), "0.0123"), (rate_text(999.9), "1,000"), (rate_text(12345.6), "12,346"),
        (rate_text(0), "0"),
    ],
)  # fmt: skip
def test_figures_read_as_a_person_writes_them(text, expected):
    assert text == expected
