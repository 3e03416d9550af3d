"""Which earlier ends of slots are remembered when there are too many."""

from __future__ import annotations

from modules.loaders.marks import MOST_MARKS, Mark, Marks

LARGE = 1 << 30


def mark(length: int, size: int = 10) -> Mark:
    return Mark(length, None, size)


def lengths(marks: Marks, slot: int = 0) -> list[int]:
    return [one.length for one in marks.of(slot, LARGE)]


def test_the_last_one_up_to_a_length_is_found() -> None:
    marks = Marks(2, LARGE)
    for length in (50, 20, 80):
        marks.put(0, mark(length))
    assert lengths(marks) == [20, 50, 80]
    assert [found.length if (found := marks.last(0, length)) else None for length in (19, 20, 79, 200)] == [None, 20, 50, 80]
    assert marks.last(1, LARGE) is None


def test_a_new_one_takes_the_place_of_another_at_the_same_length() -> None:
    marks = Marks(1, LARGE)
    first, second = mark(20), mark(20)
    marks.put(0, first)
    marks.put(0, second)
    assert marks.of(0, LARGE) == (second,)


def test_of_too_many_the_one_goes_behind_which_least_is_read_again() -> None:
    marks = Marks(1, LARGE)
    for length in range(100, 100 * (MOST_MARKS + 1), 100):
        marks.put(0, mark(length))
    marks.put(0, mark(350))
    assert lengths(marks) == [100, 200, 300, 350, *range(500, 100 * (MOST_MARKS + 1), 100)]  # not the new one
    for step in range(200):
        marks.put(0, mark(10_000 + 20 * step))
    left = lengths(marks)
    assert len(left) == MOST_MARKS
    assert left[-1] == 10_000 + 20 * 199  # most turns go on there
    assert left[0] < 10_000


def test_slots_share_a_budget_and_one_mark_counts_once() -> None:
    marks = Marks(3, 100)
    for length in range(10, 60, 10):
        marks.put(0, mark(length))
    marks.set(1, marks.of(0, 30))
    assert marks.size_bytes == 50
    for length in range(10, 90, 10):
        marks.put(2, mark(length))
        assert marks.size_bytes <= 100
    assert lengths(marks, 2) == [*range(10, 90, 10)]
    assert lengths(marks, 0) == []  # was not marked for longest


def test_slots_that_were_not_marked_for_longest_give_way_and_the_new_one_never() -> None:
    marks = Marks(3, 30)
    for slot in (1, 2):
        marks.put(slot, mark(50))
    for length in (1000, 1100, 1200):
        marks.put(0, mark(length))
    assert [lengths(marks, slot) for slot in range(3)] == [[1000, 1100, 1200], [], []]
    marks.put(0, mark(1050))
    assert lengths(marks) == [1000, 1050, 1200]
    marks.put(2, mark(70))
    assert (lengths(marks, 2), len(lengths(marks))) == ([70], 2)


def test_marks_that_are_held_for_a_moment_may_be_too_many() -> None:
    marks = Marks(1, 20)
    marks.hold(0, [mark(length) for length in (10, 20, 30)])
    assert lengths(marks) == [10, 20, 30]
    marks.set(0, marks.of(0, 20))
    assert lengths(marks) == [10, 20]


def test_one_that_is_larger_than_the_budget_is_not_kept() -> None:
    marks = Marks(1, 100)
    marks.put(0, mark(10, 101))
    assert lengths(marks) == []
