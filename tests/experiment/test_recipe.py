"""Recipes: keys, grids, and messages that name the key."""

from pathlib import Path
from typing import Any

import pytest

from pai_bench.evaluation import get_metric
from pai_bench.experiment import recipe
from pai_bench.scoring import DuringTraining, Timeline, get_criterion
from pai_bench.support.errors import UserError
from pai_bench.support.registry import MODELS, PROTOCOLS
from pai_bench.training.protocol import DEFAULT, get_protocol


def write(text: str) -> str:
    """A recipe file with `text`."""
    Path("r.toml").write_text(text)
    return "r.toml"


def test_keys_are_the_fields_of_a_sweep() -> None:
    text = 'criteria = "snip"\nsparsities = [0.9, 0]\nbatch-size = 64\ntrain_fraction = 1\nbn = "train"\nout = "there"'
    assert recipe.load(write(text)).grids == (
        {
            "criteria": ("snip",),
            "sparsities": (0.9, 0.0),
            "batch_size": 64,
            "train_fraction": 1.0,
            "bn": "train",
            "out": "there",
        },
    )


def test_seeds_may_be_a_list() -> None:
    text = 'criteria = "snip"\nsparsities = [0.9]\nseeds = 3\n[[grid]]\n[[grid]]\nseeds = [2, 7]'
    found = recipe.load(write(text))
    assert found.grids[1]["seeds"] == [2, 7]
    assert found.trials == 2 * 4  # seed 2 of both grids is the same


def test_grids_share_the_keys_at_the_top() -> None:
    text = 'seeds = 5\n[[grid]]\nmodels = ["lenet"]\n[[grid]]\nmodels = ["vgg"]\nseeds = 2'
    assert recipe.load(write(text)).grids == ({"seeds": 5, "models": ("lenet",)}, {"seeds": 2, "models": ("vgg",)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsites = [0.9]", "unknown key in recipe r.toml, line 1 'sparsites': did you mean sparsities"),
        ('compile = "yes"', "recipe r.toml, line 1: compile = 'yes' must be true or false, not a text"),
        ('seeds = "3"', "recipe r.toml, line 1: seeds = '3' must be a number"),
        ("\nseeds = 2.5", "recipe r.toml, line 2: seeds=2.5 is not a whole number"),
        ('seeds = [3, "4"]', "recipe r.toml, line 1: seeds = .* must be a number"),
        ("seeds = [3, 3]", "recipe r.toml, line 1: seeds: 3 is given twice"),
        ("seeds = true", "recipe r.toml, line 1: seeds=True is not a whole number"),
        ("seeds = 0", "recipe r.toml, line 1: seeds 0 must be at least 1"),
        ("criteria = [1]", "recipe r.toml, line 1: criteria=1 is not a text"),
        ("criteria = []", "recipe r.toml, line 1: criteria: the list is empty"),
        ('models = ["lenet", ""]', "recipe r.toml, line 1: models: the list is empty or has an empty entry"),
        ('sparsities = ["0.9"]', "sparsities = '0.9' must be a number"),
        ("sparsities = [\n0.9,\n1.2]", "recipe r.toml, line 1: sparsity 1.2 is outside"),
        ('bn = "both"', "recipe r.toml, line 1: bn=both is not one of published, train, eval"),
        ("seeds = 1\nbn = eval", "recipe r.toml is not TOML: .*line 2"),
        ("grid = 3", "'grid' is for tables"),
        ("seeds = 1\n[[grid]]\nseeds = 2\n[[grid]]\nseeds = 0", "recipe r.toml, line 5: seeds 0 must be at least 1"),
        ("[[grid]]\n'label-noise' = 2", "recipe r.toml, line 2: label-noise 2 is outside"),
        ("score-batch = 1\nscore_batch = 2", "recipe r.toml, line 2: score_batch is given twice"),
        ("[title]\nx = 1", "recipe r.toml: title = {'x': 1} is not a text"),
        ('criteria = ["snip", "snpi"]', "recipe r.toml, line 1: unknown criterion 'snpi'"),
        ('criteria = ["snip:bn=both"]', "recipe r.toml, line 1: .*both"),
        ('seeds = 1\nmodels = ["lenett"]', "recipe r.toml, line 2: unknown model 'lenett'"),
        ('data = ["mnits"]', "recipe r.toml, line 1: unknown data set 'mnits': did you mean mnist"),
        ('variants = ["shufle"]', "recipe r.toml, line 1: unknown .*'shufle'"),
        ('schedule = "linaer"', "recipe r.toml, line 1: unknown .*'linaer'"),
        ('[[grid]]\nprotocol = "snip"', "recipe r.toml, line 2: unknown protocol 'snip'"),
        ('title = """\nseeds = 3\n"""\nseeds = 0', "recipe r.toml, line 4: seeds 0 must be at least 1"),
        ('title = "a" # """\nseeds = 0', "recipe r.toml, line 2: seeds 0"),
        ("title = 3", "recipe r.toml, line 1: title = 3 is not a text"),
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


def test_missing_the_mark_takes_the_densities_of_its_paper() -> None:
    (grid,) = recipe.load("missing-the-mark").grids
    assert grid["sparsities"] == tuple(round(1 - 0.8**k, 6) for k in range(2, 19, 2))


@pytest.mark.parametrize(("name", "counted"), [("snap-it", "nodes"), ("structured", "weights")])
def test_recipes_of_structured_criteria(name: str, counted: str) -> None:
    (grid,) = recipe.load(name).grids
    assert all(get_criterion(criterion).structured for criterion in grid["criteria"])
    assert grid.get("sparsity_of", "weights") == counted
    assert all(model in MODELS for model in grid["models"])
    assert grid["protocol"] in PROTOCOLS


def changes(grid: dict[str, Any], examples: int) -> dict[str, tuple[float, float]]:
    """At which shares of a training of full length each method of a grid changes its mask first and last."""
    protocol = get_protocol(grid.get("protocol", DEFAULT), epochs=grid.get("epochs"))
    used = round(grid.get("train_fraction", 1.0) * examples)
    steps, found = protocol.steps(used), {}
    for name in grid["criteria"]:
        method = get_criterion(name)
        densities = tuple(method.schedule.densities(1 - grid["sparsities"][-1]))
        training = Timeline(steps, used // protocol.batch_size, protocol.budget, densities)
        if isinstance(method, DuringTraining) and method.during:
            times = method.checked_moments(training)
            found[name] = times[0] / steps, times[-1] / steps
        elif "prune_at" in grid:
            found[name] = (training.step_of(grid["prune_at"], "prune-at") / steps,) * 2
    return found


@pytest.mark.parametrize(
    ("name", "examples", "expected"),
    [
        ("snip-it-during", 50_000, {"snip-it:loss=nll:when=during:delay=5": (9 / 80, 33 / 80)}),
        ("rigl", 50_000, {"set": (0.001, 0.75), "rigl": (0.001, 0.75), "gmp": (0.2, 0.75)}),
        ("efficient-convnets", 50_000, {"group:of=magnitude": (71 / 80, 71 / 80)}),
        ("before-during-after", 60_000, {"snip-it:when=during": (0.1, 0.4), "gmp": (0.2, 0.75)}),
    ],
)
def test_when_recipes_prune_during_training(name: str, examples: int, expected: dict[str, tuple[float, float]]) -> None:
    found = changes(recipe.load(name).grids[0], examples)
    assert {key: found[key] for key in expected} == {key: pytest.approx(x, abs=2e-3) for key, x in expected.items()}


def test_both_parts_of_before_during_after_compare_the_same_methods_at_the_same_times() -> None:
    mnist, cifar = recipe.load("before-during-after").grids
    assert mnist["criteria"].count("rigl") == 1  # as published, in one part only
    chosen = [name for name in mnist["criteria"] if name != "rigl"]
    assert [name.split(":")[0] for name in chosen] == [name.split(":")[0] for name in cifar["criteria"]]
    assert [name for name in mnist["criteria"] if "every=800" in name] == chosen[6:8]
    assert [name for name in cifar["criteria"] if "every=800" in name] == chosen[6:8]
    at = [changes(grid, n) for grid, n in ((mnist | {"criteria": chosen}, 60_000), (cifar, 50_000))]
    ends = [[last for name, (_, last) in one.items() if "every=800" not in name] for one in at]
    assert ends[0] == pytest.approx(ends[1], abs=0.01)


@pytest.mark.parametrize("name", ["robustness", "snip-it-robustness", "overfitting"])
def test_metrics_of_recipes_are_there(name: str) -> None:
    for grid in recipe.load(name).grids:
        for metric in grid["evaluate"].split(","):
            get_metric(metric)
    noisy = [grid for grid in recipe.load(name).grids if "memorisation" in grid["evaluate"]]
    assert all(grid["label_noise"] for grid in noisy)


def test_what_is_replaced_need_not_be_there() -> None:
    text = write('criteria = ["./missing.py:Mine"]\nseeds = 2')
    with pytest.raises(UserError, match=r"r.toml, line 1: no file missing.py"):
        recipe.load(text)
    assert recipe.load(text, replaced={"criteria"}).grids[0]["seeds"] == 2


def test_a_byte_order_mark_is_no_part_of_a_recipe() -> None:
    Path("r.toml").write_text("seeds = 2", encoding="utf-8-sig")
    assert recipe.load("r.toml").grids == ({"seeds": 2},)


def test_every_shipped_recipe_is_described_and_names_what_there_is() -> None:
    assert "quick" in recipe.shipped()
    for name in recipe.shipped():
        found = recipe.load(name)
        assert found.title


def test_where_keys_stand() -> None:
    """Part and line of each; what is in a text of several lines is no key, and other tables are no grids."""
    lines = [
        'title = """several',
        'seeds = 3"""',
        "source = '''one line'''",
        "  seeds=1",
        "[[grid]]",
        '"models" = ["x"]',
        "# epochs = 4",
        '[[ "grid" ]]  # another',
        "batch-size = 4",
        "criteria = [",
        "'snip']",
        "[other]",
        "'bn' = 'train'",
    ]
    assert list(recipe.key_lines("\n".join(lines))) == [
        *((0, "title", 1), (0, "source", 3), (0, "seeds", 4), (1, "models", 6)),
        *((2, "batch-size", 9), (2, "criteria", 10), (2, "bn", 13)),
    ]
