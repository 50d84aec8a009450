"""A slice of the fuzzing that `make fuzz` does, and that the harness would notice what it looks for."""

from __future__ import annotations

from tests.fuzz.harness import outcomes
from tests.fuzz.misbehaviour import misbehave
from tests.fuzz.run import FORMATS, file_of, fuzz, is_finding


def test_mutated_files_are_decoded_or_refused() -> None:
    """Every damaged file comes to what it holds or to a refusal as it should be, in time and within bounds."""
    results = list(fuzz(280, seed=5, limit_s=20, limit_mb=4096))
    assert [result for _, result in results if is_finding(result)] == []
    assert {format_ for format_, result in results if result.result == "decoded"} == set(FORMATS)


def test_files_follow_from_their_numbers() -> None:
    """A finding can be made again from its seed and index."""
    assert file_of(3, 40) == file_of(3, 40)
    assert file_of(3, 40) != file_of(4, 40)


def test_the_harness_notices() -> None:
    """A crash, a hang, a lack of memory and an unexpected exception are told apart, and the next file is still run."""
    files = [b"fine", b"crash", b"fine", b"hang", b"memory", b"raise", b"fine"]
    results = [outcome.result for outcome in outcomes(misbehave, files, limit_s=2, limit_mb=1024)]
    assert results[:4] == ["fine", "crash", "fine", "hang"]
    assert results[4].startswith("exception: MemoryError")
    assert results[5:] == ["exception: ValueError: of its own", "fine"]
