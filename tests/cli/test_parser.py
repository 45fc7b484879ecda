"""What is taken where a flag is not given, and flags that are missing or shortened."""

import argparse
from typing import Any

import pytest

from pai_bench.cli.entry import VERBS, main
from pai_bench.cli.parser import parser


def actions(verb: str) -> list[argparse.Action]:
    """The arguments of a verb."""
    verbs: Any = next(action for action in parser()._actions if action.dest == "verb").choices
    return list(verbs[verb]._actions)


@pytest.mark.parametrize("verb", VERBS)
def test_a_help_text_names_the_value_that_is_taken_without_a_flag(verb: str) -> None:
    for action in actions(verb):
        if action.default not in (None, argparse.SUPPRESS) and not isinstance(action.default, bool):
            values = action.default if isinstance(action.default, tuple) else (action.default,)
            shown = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            assert f"default: {shown}" in str(action.help)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a"], "the following arguments are required: B"),
        (["prune"], "the following arguments are required: --model, --sparsity"),
        (["run", "--crit", "snip"], "unrecognized arguments: --crit (did you mean --criteria?)"),
        (["list", "criteria", "--zzz"], "(see `pai-bench list --help`)"),
    ],
)
def test_flags_that_are_missing_or_shortened(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
