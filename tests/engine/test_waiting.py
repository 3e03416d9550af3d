"""People take turns, and then the clients of each: nobody gets more by asking in more names or more often."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from modules.engine.sequence import Sequence
from modules.engine.waiting import WaitingQueue


def asked(person: str, client: str = "") -> Sequence:
    return Sequence([1], 5, person=person, client=client)


def named(sequences) -> list[str]:
    return [one.person + one.client for one in sequences]


def test_people_take_turns_then_their_clients():
    queue = WaitingQueue()
    for name in ("A1", "A1", "A2", "A3", "B1", "C1", "C1"):
        queue.put(asked(*name))
    expected = ["A1", "B1", "C1", "A2", "C1", "A3", "A1"]
    assert named(queue) == expected
    assert named(queue.pop() for _ in range(7)) == expected
    assert (len(queue), queue.peek()) == (0, None)


def test_taking_from_the_middle_is_a_turn_and_giving_up_is_none():
    queue = WaitingQueue()
    waiting = [asked(*name) for name in ("A1", "B1", "B2", "C1")]
    for one in waiting:
        queue.put(one)
    queue.take(waiting[1])
    assert named(queue) == ["A1", "C1", "B2"]
    assert queue.remove(waiting[0])
    assert not queue.remove(waiting[0])
    queue.put(asked("D"))
    assert named(queue) == ["C1", "B2", "D"]


@settings(max_examples=60, deadline=None)
@given(people=st.integers(2, 5), clients=st.lists(st.integers(1, 6), min_size=5, max_size=5), floods=st.lists(st.integers(1, 9), min_size=5, max_size=5), turns=st.integers(1, 40))
def test_starts_of_people_who_always_wait_differ_by_at_most_one(people, clients, floods, turns):
    queue, begun = WaitingQueue(), Counter({f"p{number}": 0 for number in range(people)})
    asks: Counter[str] = Counter()

    def ask(number: int) -> None:
        person = f"p{number}"
        asks[person] += 1
        queue.put(asked(person, str(asks[person] % clients[number])))

    for number in range(people):
        for _ in range(floods[number]):
            ask(number)
    for _ in range(turns):
        told = list(queue)
        one = queue.pop()
        assert told[0] is one
        begun[one.person] += 1
        ask(int(one.person[1:]))
        assert max(begun.values()) - min(begun.values()) <= 1
        assert len(queue) == sum(floods[:people])
