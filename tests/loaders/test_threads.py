"""How many threads: what counts is a server that does other things too, not a loop that has the machine to itself."""

from __future__ import annotations

import pytest

from modules.loaders.llama_cpp.threads import fastest_threads


@pytest.mark.parametrize(
    ("cores", "times", "expected"),
    [
        (2, {1: (0.0004, 0.0038), 2: (0.0003, 0.0021)}, (1, 1)),  # a tiny model: measured so, and four times slower in the server with both
        (2, {1: (0.012, 0.3), 2: (0.007, 0.16)}, (2, 2)),
        (2, {1: (0.012, 0.3), 2: (0.011, 0.16)}, (1, 2)),  # writing waits for memory, reading does not
        (8, {1: (0.04, 2.0), 4: (0.014, 0.6), 8: (0.012, 0.33)}, (4, 8)),
        (8, {1: (0.0004, 0.004), 4: (0.0006, 0.002), 8: (0.0008, 0.002)}, (1, 4)),
    ],
)
def test_the_fastest_in_earnest(cores: int, times: dict[int, tuple[float, float]], expected: tuple[int, int]) -> None:
    assert fastest_threads(lambda count, worth_s: times[count], cores) == expected
