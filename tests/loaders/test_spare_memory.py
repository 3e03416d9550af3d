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


def test_of_several_pieces_the_one_that_is_ready_and_no_larger_than_needed_serves():
    spare = SpareMemory()
    small, large = spare.take(SIZE), spare.take(SIZE + SIZE // 2)
    where = address(small), address(large)
    spare.give_back(large)
    spare.give_back(small)
    del small, large
    again = spare.take(SIZE), spare.take(SIZE)
    assert tuple(map(address, again)) == where


def test_of_what_is_given_back_no_more_is_kept_than_it_is_worth(monkeypatch):
    monkeypatch.setattr("modules.loaders.llama_cpp.spare_memory.MOST_BYTES", 3 * SIZE)  # each has a quarter more behind it
    spare = SpareMemory()
    taken = [spare.take(SIZE) for _ in range(4)]
    where = [address(one) for one in taken]
    for one in taken:
        spare.give_back(one)
    kept = [address(piece.memory) for piece in spare._pieces]
    assert kept == where[2:]
    spare.give_back(spare.take(10 * SIZE))
    assert [piece.memory.nbytes >= 10 * SIZE for piece in spare._pieces] == [True]


def test_memory_is_made_ready_piece_by_piece_and_once():
    spare = SpareMemory()
    assert [spare.make_ready([SIZE]) for _ in range(4)] == [True, True, False, False]
    (whole,) = (piece.memory for piece in spare._pieces)
    assert not whole[:SIZE].any()
    taken = spare.take(SIZE)
    assert address(taken) == address(whole)
    assert spare.make_ready([SIZE])  # for the next one


def test_memory_is_made_ready_for_several():
    spare = SpareMemory()
    sizes = [SIZE, PIECE_BYTES, SIZE + 7]
    calls = 1
    while spare.make_ready(sizes):
        calls += 1
    assert calls == 3 + 1 + 3
    ready = {address(piece.memory) for piece in spare._pieces}
    assert len(ready) == 3
    taken = [spare.take(size) for size in sizes]
    assert {address(one) for one in taken} == ready
    assert not spare._pieces
    for one in taken:
        spare.give_back(one)
    assert not spare.make_ready(sizes[:2])
    assert len(spare._pieces) == 2  # what serves none of them is let go


def test_memory_given_back_is_ready():
    spare = SpareMemory()
    spare.give_back(spare.take(SIZE))
    assert not spare.make_ready([SIZE])
