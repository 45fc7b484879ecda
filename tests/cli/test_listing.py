"""The verb `list`: what it says while it counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pai_bench.cli import listing
from pai_bench.cli.entry import main


@pytest.mark.parametrize(("kind", "words"), [("recipes", ["counting what their networks compute"]), ("schedules", [])])
def test_what_takes_a_while_is_named(kind: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    @contextmanager
    def status(text: str) -> Iterator[None]:
        said.append(text)
        yield

    monkeypatch.setattr(listing, "make_console", lambda: SimpleNamespace(status=status, print=lambda _shown: None))
    monkeypatch.setattr(listing, "recipe_row", lambda recipe: [recipe.name] * 5)
    assert main(["list", kind]) == 0
    assert said == words
