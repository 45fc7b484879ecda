"""Python's search for cycles is off inside a block, and afterwards as it was."""

import gc
from collections.abc import Iterator

import pytest

from pai_bench.support.garbage import no_collection


@pytest.fixture(autouse=True)
def enabled_afterwards() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("before", [True, False])
def test_it_is_off_inside_and_as_before_outside(before: bool) -> None:
    if not before:
        gc.disable()
    seen = []

    def fail() -> None:
        with no_collection():
            seen.append(gc.isenabled())
            raise ValueError("done")

    with pytest.raises(ValueError, match="done"):
        fail()
    assert seen == [False]
    assert gc.isenabled() == before
