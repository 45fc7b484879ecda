"""Recipes: keys, grids, and messages that name the key."""

from pathlib import Path

import pytest

from pai_bench import recipe
from pai_bench.errors import UserError


def write(text: str) -> str:
    """A recipe file with `text`."""
    Path("r.toml").write_text(text)
    return "r.toml"


def test_keys_are_the_fields_of_a_sweep() -> None:
    text = 'criteria = "snip"\nsparsities = [0.9, 0]\nbatch-size = 64\ntrain_fraction = 1\nbn = "train"\nout = "there"'
    assert recipe.load(write(text)) == [
        {
            "criteria": ("snip",),
            "sparsities": (0.9, 0.0),
            "batch_size": 64,
            "train_fraction": 1.0,
            "bn": "train",
            "out": "there",
        }
    ]


def test_grids_share_the_keys_at_the_top() -> None:
    text = 'seeds = 5\n[[grid]]\nmodels = ["a"]\n[[grid]]\nmodels = ["b"]\nseeds = 2'
    assert recipe.load(write(text)) == [{"seeds": 5, "models": ("a",)}, {"seeds": 2, "models": ("b",)}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsites = [0.9]", "unknown key in recipe r.toml 'sparsites': did you mean sparsities"),
        ('seeds = "3"', "recipe r.toml: seeds = '3' must be a number"),
        ("seeds = 2.5", "recipe r.toml: seeds=2.5 is not a whole number"),
        ("seeds = true", "recipe r.toml: seeds=True is not a whole number"),
        ("criteria = [1]", "recipe r.toml: criteria=1 is not a text"),
        ('sparsities = ["0.9"]', "sparsities = '0.9' must be a number"),
        ('bn = "both"', "recipe r.toml: bn=both is not one of published, train, eval"),
        ("seeds = 1\nbn = eval", "recipe r.toml is not TOML: .*line 2"),
        ("grid = 3", "'grid' is for tables"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe.load(write(text))


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no recipe file missing.toml"):
        recipe.load("missing.toml")
    with pytest.raises(UserError, match="unknown recipe 'quik': did you mean quick"):
        recipe.load("quik")


def test_shipped_recipes_are_valid_and_described() -> None:
    assert "quick" in recipe.shipped()
    for name, description in recipe.shipped().items():
        assert recipe.load(name)
        assert description
