"""Where networks fall apart: exact ends of one-shot criteria, brackets of iterative ones, and what the verb writes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.analyses import collapse as module
from pai_bench.analyses.collapse import Search, Settings, identify_search, smallest, stored
from pai_bench.cli.entry import main
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.graph.connectivity import Connections
from pai_bench.report import collapse as report
from pai_bench.results import Collapse, MaskEffect, Store
from pai_bench.scoring import Scorer
from tests.experiment.test_disconnection import Starve, constant
from tests.experiment.test_runner import blobs, sweep
from tests.report.records import altered, fields_of


def three(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three layers."""
    sizes = ((shape[0], 8), (8, 6), (6, classes))
    return nn.Sequential(*[nn.Linear(*size, bias=False) for size in sizes])


def made(criterion: str, settings: Settings, seed: int = 0) -> Search:
    sweep = pb.Sweep(
        criteria=[criterion],
        models=[three],
        data=[blobs()],
        sparsities=[0.5],
        seeds=seed + 1,
        device="cpu",
    )
    runner = Runner(resolve(sweep))
    return Search(runner, trial(runner, seed), settings)


def search(criterion: str, points: int = 6, seed: int = 0, rounds: int | None = None) -> tuple[Search, Collapse]:
    found = made(criterion, Settings(points, rounds), seed)
    assert found.seconds() > 0
    assert len(list(found.steps())) <= found.evaluations() + 2
    return found, found.result(1.0)


def trial(runner: Runner, seed: int) -> Trial:
    return next(t for t in runner.catalog.trials if t.criterion is not None and t.seed == seed)


def connected(found: Search, count: int) -> bool:
    example = torch.zeros(1, 5)
    return pb.connectivity(found.model, found.mask(count), example).connected


def test_a_criterion_that_keeps_more_or_fewer_is_refused() -> None:
    with pytest.raises(pb.UserError, match="a search counts connections, which ties=keep changes"):
        search("snip:ties=keep")
    assert main(["collapse", "--criteria", "snip:ties=keep", "--models", "lenet-300-100"]) == 2


@pytest.mark.parametrize("criterion", ["random", "magnitude", "snip", "grasp", "erk"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_end_of_a_one_shot_criterion_is_exact(criterion: str, seed: int) -> None:
    found, collapse = search(criterion, seed=seed)
    size = 5 * 8 + 8 * 6 + 6 * 3
    assert (collapse.size, collapse.exact) == (size, criterion != "erk")
    assert collapse.connected_until is not None
    assert collapse.cut_from is not None
    last = round((1 - collapse.connected_until) * size)
    assert connected(found, last)
    assert not connected(found, last - 1)
    assert round((1 - collapse.cut_from) * size) == last - 1
    counts = {n: [found.mask(k).kept_per_layer()[n] for k in range(1, size + 1)] for n in collapse.layers_until}
    for name, until in collapse.layers_until.items():
        first = round((1 - until) * size)
        assert counts[name][first - 1] > 0
        assert first == 1 or counts[name][first - 2] == 0


def test_the_end_of_an_iterative_criterion_lies_between_two_prunings() -> None:
    found, collapse = search("synflow", points=8)
    assert not collapse.exact
    assert collapse.connected_until is not None
    assert collapse.cut_from is not None
    assert collapse.connected_until < collapse.cut_from
    tried = {one.sparsity: one.connected for one in collapse.tried}
    assert tried[collapse.connected_until]
    assert not tried[collapse.cut_from]
    # SynFlow keeps every layer as long as there is one connection for each
    assert round((1 - collapse.connected_until) * collapse.size) == 3
    for one in collapse.tried:
        assert one.effective_sparsity is None or 0 <= one.sparsity <= one.effective_sparsity <= 1
    assert all(0 < until < 1 for until in collapse.layers_until.values())
    assert found.evaluations() == 12


def test_what_is_written_is_read_again() -> None:
    _, collapse = search("snip")
    store = Store("r", create=True)
    store.write(collapse)
    (read,) = store.read_all(Collapse)
    assert read.identity == collapse.identity
    assert read.to_json() == collapse.to_json()
    path = next(Path("r/collapse").glob("*.json"))
    damaged = json.dumps(fields_of(path.read_text())).replace('"layers_until"', '"layers"')
    path.write_text(damaged)
    assert store.read_all(Collapse) == []


def test_the_verb_writes_a_report_with_figures(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["collapse", "--criteria", "random,synflow", "--models", "lenet-300-100", "--seeds", "2"]
    assert main([*arguments, "--points", "4", "--rounds", "5", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "4 searches on cpu, about" in out
    assert "exponential:steps=5" in out
    text = Path("results/report.md").read_text()
    assert text.startswith("# Pruning at initialisation: where networks fall apart")
    assert "Highest sparsity at which a layer keeps a connection" in text
    figures = sorted(path.name for path in Path("results/figures").glob("*.svg"))
    assert len(figures) == 2
    assert all(f"figures/{name}" in text for name in figures)
    assert main(["report", "results", "-o", "again.md"]) == 0
    assert len(list(Path("results/collapse").glob("*.json"))) == 4


SMALL = ["collapse", "--criteria", "random,snip", "--models", "lenet-300-100", "--seeds", "2", "--points", "3"]


@pytest.mark.slow
def test_what_is_stored_is_not_searched_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--device", "cpu"]) == 0
    before = {path: path.read_text() for path in Path("results/collapse").glob("*.json")}
    capsys.readouterr()
    assert main([*SMALL, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "0 searches; 4 more are stored already" in out
    assert "one-shot" in out  # the table is shown all the same
    assert {path: path.read_text() for path in Path("results/collapse").glob("*.json")} == before
    assert main([*SMALL, "--points", "2", "--rounds", "9", "--device", "cpu"]) == 0  # coarser; one-shot has no rounds
    assert "0 searches; 4 more" in capsys.readouterr().out
    assert main([*SMALL, "--points", "4", "--device", "cpu"]) == 0
    assert "4 searches on cpu" in capsys.readouterr().out


def test_an_interrupted_search_goes_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = Search.result
    made: list[Search] = []

    def interrupted(self: Search, seconds: float) -> Collapse:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(self)
        return result(self, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "result", interrupted)
        assert main([*SMALL, "--device", "cpu"]) == 130
    assert "interrupted: 3 of 4 searches are stored; the same command runs the rest" in capsys.readouterr().out
    assert main([*SMALL, "--device", "cpu"]) == 0
    assert "1 search on cpu" in capsys.readouterr().out
    assert Path("results/report.md").is_file()


def test_a_recipe_gives_several_networks_their_own_criteria(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text(
        'sparsities = [0.9, 0.95]\nrepair = "effective-only"\nout = "found"\nseeds = 1\n'
        '[[grid]]\nmodels = ["lenet-300-100"]\ncriteria = ["random"]\n'
        '[[grid]]\nmodels = ["lenet"]\ncriteria = ["magnitude"]\n'
    )
    assert main(["collapse", "r.toml", "--points", "3", "--device", "cpu"]) == 0
    assert "2 searches on cpu" in capsys.readouterr().out
    found = {(one.trial["model"], one.trial["criterion"]["name"]) for one in Store("found").read_all(Collapse)}
    assert found == {("lenet-300-100", "random"), ("lenet-5-caffe", "magnitude")}


def test_grids_may_share_searches(capsys: pytest.CaptureFixture[str]) -> None:
    grid = '[[grid]]\nmodels = ["lenet-300-100"]\ncriteria = ["random"]\nseeds = '
    Path("r.toml").write_text(f"{grid}1\n{grid}2\n")
    for line in ("2 searches on cpu", "0 searches; 2 more"):
        assert main(["collapse", "r.toml", "--points", "3", "--device", "cpu"]) == 0
        assert line in capsys.readouterr().out


def test_a_criterion_that_fails_is_named_and_the_others_are_searched(capsys: pytest.CaptureFixture[str]) -> None:
    Path("boom.py").write_text(
        "import pai_bench as pb\n\nclass Boom(pb.Criterion):\n"
        "    def score(self, model, batch):\n        raise ValueError('no score today')\n"
    )
    arguments = ["--criteria", "./boom.py:Boom,random", "--models", "lenet-300-100", "--seeds", "1", "--points", "3"]
    assert main(["collapse", *arguments, "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert " failed on lenet-300-100: ValueError: no score today" in out
    assert [one.trial["criterion"]["name"] for one in Store("results").read_all(Collapse)] == ["random"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provenance", None),
        ("environment", None),
        ("first_cut", 7),
        ("connected_until", "x"),
        ("connected_until", float("nan")),
        ("size", 0),
        ("size", "a"),
        ("tried", []),
        ("seconds", None),
    ],
)
def test_damaged_searches_are_left_out(key: str, value: object) -> None:
    _, collapse = search("snip")
    assert Collapse.from_json(collapse.to_json()).to_json() == collapse.to_json()
    with pytest.raises(ValueError, match=r"field|NaN"):
        Collapse.from_json(json.dumps(fields_of(collapse.to_json()) | {key: value}))


def test_the_same_search_again_takes_the_place_of_the_first_and_other_uses_stand_apart() -> None:
    store = Store("r", create=True)
    for criterion, points in (("snip", 4), ("snip", 6), ("snip:bn=train", 4)):
        store.write(search(criterion, points=points)[1])
    found = store.read_all(Collapse)
    assert sorted(len(one.tried) > 0 for one in found) == [True, True]
    (group,) = report.groups(found)
    assert len(report.by_criterion(group)) == 2


def test_a_report_of_means_and_ranges() -> None:
    group = [search("random", seed=seed)[1] for seed in (0, 1)]
    head, row = report.table(group)
    assert head[0] == "criterion"
    assert row[:2] == ["random", "one-shot"]
    assert " to " in row[2]
    assert len(report.effective_table(group)[0]) == 1 + 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "1"], "points 1 must be at least 2"),
        (["--rounds", "0"], "rounds 0 must be at least 1"),
        (["--criteria", "snp"], "unknown criterion 'snp': did you mean snip"),
        (["--models", "leent"], "unknown model 'leent'"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collapse", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_counts_that_are_tried_and_how_many_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """106 connections: from 53 down to 1 by the fifth root of 53, 2.212; 106 has 7 binary digits."""
    once, cuts = made("snip", Settings(6)), made("synflow", Settings(6))
    assert once.grid() == [53, 24, 11, 5, 2, 1]
    assert once.evaluations() == 6 + 7
    assert cuts.evaluations() == 6 + 3
    assert made("synflow", Settings(7)).evaluations() == 7 + 3
    now = 10.0

    def takes(seconds: float, function: Any) -> Any:
        def taking(*given: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*given)

        return taking

    # a score takes two seconds, a look at what it connects three
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(Scorer, "score", takes(2, Scorer.score))
    monkeypatch.setattr(Connections, "connected", takes(3, Connections.connected))
    for found, expected in ((once, 2 * 1 + 3 * (13 + 12)), (cuts, 2 * 9 * 100 + 3 * (9 + 12))):
        assert found.seconds() == expected


def test_layers_of_an_iterative_criterion_are_followed_as_far_as_was_tried() -> None:
    found, collapse = search("synflow", points=4, rounds=3)
    sparsities = [one.sparsity for one in collapse.tried]
    assert sparsities == sorted(sparsities)
    for i, name in enumerate(found.sizes):
        alive = [one.sparsity for one in collapse.tried if one.densities[i] > 0]
        assert collapse.layers_until[name] == max(alive)
    assert [one.effective is None for one in collapse.tried] == [
        one.effective_sparsity is None for one in collapse.tried
    ]


def test_what_is_equal_keeps_its_order_in_the_ranking() -> None:
    """The best of b is as good as two of a, which come first; that of c has three above it and one beside it."""
    found, _ = search("snip")
    scores = {"a": torch.tensor([3.0, 1.0, 3.0]), "b": torch.tensor([[3.0, 2.0]]), "c": torch.tensor([2.0, 0.0])}
    found._scores = scores
    assert {name: found.first_count(name) for name in scores} == {"a": 1, "b": 3, "c": 5}


@pytest.mark.parametrize("first", [1, 2, 7, 8])
def test_the_smallest_count_at_which_something_holds(first: int) -> None:
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= first

    assert smallest(holds, 8) == first
    assert min(asked) >= 1
    assert max(asked) <= 8
    assert len(asked) <= 3


def test_a_network_of_one_layer_is_connected_to_the_last() -> None:
    def single(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Linear(shape[0], classes)

    keys = {"criteria": ["magnitude"], "models": [single], "data": [blobs()], "sparsities": [0.5], "seeds": 1}
    runner = Runner(resolve(pb.Sweep(**keys, device="cpu")))  # type: ignore[arg-type]
    found = Search(runner, runner.catalog.trials[1], Settings(2))
    tried = [one.sparsity for one in found.steps()]
    result = found.result(2.5)
    assert tried == [1 - 8 / 15, 1 - 1 / 15]  # half of 15, and one
    assert (result.connected_until, result.cut_from, result.first_cut) == (1 - 1 / 15, None, None)
    assert (result.size, result.seconds, result.exact) == (15, 2.5, True)
    assert result.layers_until == {"weight": 1 - 1 / 15}
    assert Collapse.from_json(result.to_json()) == result
    with pytest.raises(ValueError, match="a field has an impossible value"):
        Collapse.from_json(altered(result, layers_until={}, tried=()).to_json())
    assert result.provenance.points == 2
    assert result.provenance.checksum == blobs().checksum


def test_a_stored_search_is_taken_if_it_is_as_fine_and_of_the_same_data() -> None:
    found, collapse = search("snip", points=6)

    def taken(points: int = 6, **changes: object) -> bool:
        one = altered(collapse, provenance=changes)
        return stored([one], found.runner, found.trial, Settings(points)) is one

    assert [taken(points) for points in (5, 6, 7)] == [True, True, False]
    assert not taken(checksum="another")
    no_points = altered(collapse, provenance={"points": None})
    assert stored([no_points], found.runner, found.trial, Settings(2)) is None
    other = made("snip", Settings(), seed=1).trial
    assert stored([collapse], found.runner, other, Settings(6)) is None


def test_settings_at_their_limits() -> None:
    assert (Settings(2).points, Settings(rounds=1).rounds) == (2, 1)
    pruned = made("synflow", Settings()).trial
    assert str(Settings(rounds=3).schedule(pruned)) == "exponential:steps=3"
    assert str(Settings().schedule(pruned)) == "exponential:steps=100"
    assert str(Settings(rounds=3).schedule(made("snip", Settings()).trial)) == "one-shot"
    assert Settings(rounds=3).configuration(pruned)["criterion"]["schedule"] == "exponential:steps=3"
    assert (Settings().points, Settings().rounds) == (10, None)
    assert identify_search({"a": 1, "b": (2,)}) == identify_search({"b": [2], "a": 1})


@pytest.mark.parametrize(
    ("criterion", "points", "tried", "ends"),
    [
        ("synflow", 7, [53, 27, 14, 7, 4, 2, 1, 10, 8, 9], (9, 10)),  # half as many again as along the way
        ("synflow", 5, [53, 20, 7, 3, 1, 13, 10], (7, 10)),
        ("snip", 2, [53, 1, 7, 19, 13, 10, 8, 9], (9, 10)),  # to the end; in ratios, as long as it is far
    ],
)
def test_the_end_is_looked_for_between_what_is_connected_and_what_is_not(
    criterion: str, points: int, tried: list[int], ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 106 connections, ten are enough."""

    def look(search: Search, count: int) -> MaskEffect:
        keys: dict[str, Any] = {"effective_sparsity": None, "densities": (), "effective": None}
        search._tried[count] = MaskEffect(sparsity=1 - count / 106, connected=count >= 10, **keys)
        return search._tried[count]

    monkeypatch.setattr(Search, "examine", look)
    monkeypatch.setattr(Search, "connected", look)
    found = made(criterion, Settings(points))
    assert [round(106 * (1 - one.sparsity)) for one in found.steps()] == tried
    assert found.ends == ends


def searched(points: int, **changes: Any) -> Search:
    runner = Runner(resolve(sweep(seeds=1, **changes)))
    return Search(runner, runner.catalog.trials[1], Settings(points))


@pytest.mark.parametrize("schedule", ["one-shot", "linear:steps=2"])
def test_the_mask_at_the_sparsity_of_a_trial_is_the_trials(schedule: str) -> None:
    found = searched(2, criteria=["random"], schedule=schedule, sparsities=[0.75], keep_last=True)
    mask, _ = found.runner.probe.mask(found.trial, found.model)
    assert mask is not None
    assert (found.size, list(mask)) == (80, ["1.weight"])
    assert torch.equal(found.mask(20)["1.weight"], mask["1.weight"])


def test_a_network_that_is_never_connected_has_no_end() -> None:
    found = searched(2, models=[constant], criteria=["magnitude"])
    assert not any(one.connected for one in found.steps())
    result = found.result(1.0)
    assert (result.size, result.connected_until, result.cut_from) == (15, None, 1 - 14 / 15)


def test_a_layer_that_no_mask_keeps_is_alive_at_nothing_removed() -> None:
    found = searched(2, criteria=[Starve()], schedule="linear:steps=2")
    for count in (64, 1):
        found.examine(count)
    assert found.layers_until() == {"1.weight": 1 - 1 / 128, "3.weight": 0.0}
