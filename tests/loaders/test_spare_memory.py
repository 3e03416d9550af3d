"""Memory for saved states: taken, given back, made ready."""

from __future__ import annotations

from modules.loaders.llama_cpp.spare_memory import PIECE_BYTES, SURPLUS, SpareMemory

SIZE = 2 * PIECE_BYTES + 5


def address(memory) -> int:
    return int(memory.ctypes.data)


def test_memory_given_back_serves_again_where_it_is_not_far_too_large():
    spare = SpareMemory()
    first = spare.take(SIZE)
    where = address(first)
    spare.give_back(first)
    del first
    longer = spare.take(SIZE + SIZE // 5)  # a conversation that has grown
    assert address(longer) == where
    assert longer.nbytes == SIZE + SIZE // 5
    other = spare.take(SIZE)
    assert address(other) != where  # the first is in use
    spare.give_back(longer)
    small = spare.take(SIZE // (2 * SURPLUS))
    assert address(small) != where


def test_memory_is_made_ready_piece_by_piece_and_once():
    spare = SpareMemory()
    assert [spare.make_ready(SIZE) for _ in range(4)] == [True, True, False, False]
    whole = spare._spare
    assert whole is not None
    assert not whole[:SIZE].any()
    taken = spare.take(SIZE)
    assert address(taken) == address(whole)
    assert spare.make_ready(SIZE)  # for the next one


def test_memory_given_back_is_ready():
    spare = SpareMemory()
    spare.give_back(spare.take(SIZE))
    assert not spare.make_ready(SIZE)
