"""What is gone round of the sample stream: how many steps are left, and that walking them takes as many."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ryzen_mpi.training.detours import Detours


def walked(detours, position, batch):
    """The first samples of all steps from `position` on, as training takes them."""
    found = []
    while (position := detours.behind(position)) < detours.total:
        found.append(position)
        position = min(position + batch, detours.total)
    return found


def test_without_windows_steps_are_counted_by_the_batch():
    assert Detours(100).steps_left(0, 30) == 4 and Detours(100).steps_left(90, 30) == 1
    assert Detours(100).steps_left(100, 30) == 0


def test_a_window_is_gone_round_and_its_steps_are_missing():
    detours = Detours(100)
    detours.add(20, 50)
    assert walked(detours, 0, 10) == [0, 10, 50, 60, 70, 80, 90] and detours.steps_left(0, 10) == 7
    assert detours.steps_left(30, 10) == 5


def test_a_window_up_to_the_end_ends_the_training_before_it():
    detours = Detours(100)
    detours.add(80, 130)
    assert walked(detours, 70, 10) == [70] and detours.steps_left(70, 10) == 1 and detours.steps_left(80, 10) == 0


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 120)), max_size=4),
)
def test_as_many_steps_are_walked_as_are_said_to_be_left(total, batch, position, windows):
    detours = Detours(total)
    for begin, length in windows:
        detours.add(begin, begin + length)
    assert detours.steps_left(position, batch) == len(walked(detours, position, batch))
