"""The part of a report about smaller networks: its table by hand, its figure, and what it says in sentences."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import smaller_networks
from pai_bench.report.figures import bar_charts
from pai_bench.report.figures.pareto import pareto
from pai_bench.report.figures.smaller_networks import Latencies, accuracy_by_size, share_axis
from pai_bench.report.section import FIGURES, section
from pai_bench.results import BesideDense, Cost, Layer, Record, SmallerNetwork
from tests.report.records import ENVIRONMENT, PROVENANCE, cost, record
from tests.report.test_figures import compared, names, points

PATH = Path("x.svg")
FIXED = {"b.weight": "the network's output", "a.weight": "a norm", "c.weight": "a norm"}


def network(
    criterion: str | None, sparsity: float, seed: int, accuracy: float, kept: tuple[int, int] = (40, 10), **keys: Any
) -> Record:
    """Of 40 and 10 weights, which take 600 and 300 of 1,000 operations; 2,000 images are seen in 4 seconds."""
    layers = tuple(
        Layer(name=name, size=size, kept=left, flops=flops)
        for name, size, left, flops in zip(("a.weight", "b.weight"), (40, 10), kept, (600, 300), strict=True)
    )
    usual: dict[str, Any] = {"layers": layers, "flops": 1000, "train_seconds": 4.0, "images_per_second": 500.0}
    return record(criterion, sparsity, seed, accuracy, **usual | keys)


def smaller(criterion: str, sparsity: float, seed: int, accuracy: float, **keys: Any) -> Record:
    """Half of the weights, 0.6 of the units: 550 operations are left; the same images take 2 seconds."""
    usual: dict[str, Any] = {"kept": (20, 5), "node_sparsity": 0.6, "fixed": FIXED}
    usual |= {"train_seconds": 2.0, "images_per_second": 1000.0}
    return network(criterion, sparsity, seed, accuracy, **usual | keys)


def some() -> list[Record]:
    """Two seeds of the dense network, of snap at two sparsities and of snip."""
    found = []
    for seed in (0, 1):
        found += [network(None, 0.0, seed, 0.9), network("snip", 0.5, seed, 0.7, kept=(20, 5))]
        found += [smaller("snap", 0.5, seed, 0.88), smaller("snap", 0.8, seed, 0.8, kept=(8, 2), node_sparsity=0.9)]
    return found


def test_the_table_by_hand() -> None:
    head, *rows = smaller_networks.table(compared(some()))
    assert head == [
        *("criterion", "sparsity", "nodes left", "weights left", "FLOPs left", "below dense, points", "training"),
        *("images/s", "times faster", "training FLOPs", "times fewer"),
    ]
    # 3 x 550 x 2,000 = 3.3e6; with a fifth of the weights, 100 + 900 / 5 = 280 operations
    assert rows == [
        ["dense", "0", "100", "100", "100", "0.00", "4 s", "500", "1", "6e+06", "1"],
        ["snap", "0.5", "40", "50", "55", "2.00", "2 s", "1,000", "2", "3.3e+06", "1.82"],
        ["snap", "0.8", "10", "20", "28", "10.00", "2 s", "1,000", "2", "1.68e+06", "3.57"],
    ]


def test_what_is_not_known_is_left_empty() -> None:
    untrained = smaller("snap", 0.5, 0, 0.5, flops=None, train_seconds=None, images_per_second=None)
    _, row = smaller_networks.table(compared([untrained, network("snap", 0.8, 0, None)]))  # type: ignore[arg-type]
    assert row == ["snap", "0.5", "40", "50", "", "", "", "", "", "", ""]


@pytest.mark.filterwarnings("error")
def test_what_was_not_trained_is_not_faster() -> None:
    untrained: dict[str, Any] = {"train_seconds": 0.0, "images_per_second": None}
    records = [network(None, 0.0, 0, 0.1, **untrained), smaller("snap", 0.5, 0, 0.1, **untrained)]
    _, *rows = smaller_networks.table(compared(records))
    assert [row[6:] for row in rows] == [["", "", "", "", "1"], ["", "", "", "", "1.82"]]


def sections(records: list[Record], costs: list[Cost] | None = None) -> list[str]:
    by_identity = {one.identity: one for one in records}
    paths = {name: Path(f"{name}.svg") for name in FIGURES}
    return section(compared(records), by_identity, Path(), paths, "direct", costs or []).parts


def test_the_part_of_a_section(drawings: list[Any]) -> None:
    parts = sections(some())
    assert parts.count(smaller_networks.UNSTRUCTURED) == 1
    place = parts.index("### Smaller networks")
    assert parts.index("### Cost") < parts.index(smaller_networks.UNSTRUCTURED) < place
    assert parts[place + 1] == smaller_networks.CAPTION
    assert parts[place + 2].startswith("| criterion | sparsity | nodes left |")
    assert parts[place + 3 : place + 5] == [
        "![Test accuracy against what is left of the network, net on digits](smaller.svg)",
        "* fixed, in part or whole: b.weight (the network's output).\n"
        "* fixed, in part or whole: a.weight, c.weight (a norm).",
    ]
    assert drawings[-1].get_suptitle() == "net on digits"


def test_there_is_no_such_part_without_structured_criteria(drawings: list[Any]) -> None:
    parts = sections([network(None, 0.0, 0, 0.9), network("snip", 0.5, 0, 0.8)])
    assert smaller_networks.UNSTRUCTURED in parts
    assert not any("Smaller" in part for part in parts)
    parts = sections([network(None, 0.0, 0, 0.9), smaller("snap", 0.5, 0, 0.8, fixed={})])
    assert smaller_networks.UNSTRUCTURED not in parts
    assert parts[parts.index("### Smaller networks") + 4].startswith("<details>")  # no list of what is fixed
    assert drawings


def test_networks_that_were_trained_in_other_ways(drawings: list[Any]) -> None:
    stacked = network(None, 0.0, 0, 0.9, provenance=dataclasses.replace(PROVENANCE, lanes=3))
    assert smaller_networks.DIFFERENT in sections([stacked, smaller("snap", 0.5, 0, 0.8)])
    assert smaller_networks.DIFFERENT not in sections(some())
    assert drawings


@pytest.mark.parametrize(
    ("data", "model", "shown"),
    [("cifar10", "snip-it-vgg-16", True), ("cifar10", "resnet-20", False), ("digits", "vgg-16-bn", False)],
)
def test_what_the_authors_state(data: str, model: str, shown: bool) -> None:
    records = [smaller(name, 0.5, 0, 0.8, trial={"data": data, "model": model}) for name in ("snap-it", "snap")]
    lines = list(smaller_networks.statements(compared(records), ("snap-it", "snap")))
    assert [line[:60] for line in lines] == ["snap-it: its authors state for their VGG-16 without 93 % of "] * shown


def beside(seconds: float) -> BesideDense:
    return BesideDense(rounds=5, cold=False, seconds=seconds, iqr=0.01, dense_seconds=0.5, dense_iqr=0.02)


def timed(one: Record, seconds: float, **changes: Any) -> Cost:
    """What `pai-bench time` has measured of the smaller network of a record."""
    passes = SmallerNetwork(
        node_sparsity=0.6,
        weight_sparsity=0.5,
        flop_sparsity=0.45,
        forward_1=beside(0.001),
        forward_128=beside(seconds),
        training_step=beside(0.3),
    )
    return cost(dict(one.trial) | {"seed": 3, "protocol": {"batch_size": 9}}, smaller=passes, **changes)


def test_the_figure(drawings: list[Any]) -> None:
    records = some()
    comparison, by_identity = compared(records), {one.identity: one for one in records}
    accuracy_by_size(comparison, Latencies(), PATH)
    assert [names(axes)[1] for axes in drawings[0].axes] == ["nodes left, %", "weights left, %", "FLOPs left, %"]
    assert [axes.get_xscale() for axes in drawings[0].axes] == ["log", "log", "linear"]
    for axes, places in zip(drawings[0].axes, ((10, 40), (20, 50), (28, 55)), strict=True):
        (shown,) = points(axes).values()  # no networks under a mask
        assert [(x, y) for x, y, *_ in shown] == [pytest.approx((places[0], 80)), pytest.approx((places[1], 88))]
    costs = [timed(records[2], 0.25), timed(records[3], 0.125), timed(records[2], 9.0, device="cuda")]
    costs += [timed(network("snip", 0.5, 0, 0.7), 7.0), cost(dict(records[2].trial))]
    latencies = smaller_networks.latencies(comparison, by_identity, costs)
    assert latencies.machine == "a cpu, 2 threads"
    assert {place: one.seconds for place, one in latencies.passes.items() if place[0] == "snap"} == {
        ("snap", 0.5): 0.25,
        ("snap", 0.8): 0.125,
    }
    accuracy_by_size(comparison, latencies, PATH)
    *_, last = drawings[1].axes
    assert names(last)[1] == "ms, forward pass of 128 examples,\na cpu, 2 threads"
    assert [point[0] for point in points(last)["snap"]] == [125, 250]
    assert last.get_xscale() == "linear"
    assert all(3 < figure.get_figheight() / rows < 4 for figure, rows in zip(drawings, (1, 2), strict=True))
    (legend,) = drawings[1].legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "snap"]


def test_another_way_of_scoring_is_another_network() -> None:
    one = smaller("snap", 0.5, 0, 0.9)
    for key, value in {"score_batch": 7, "sparsity_of": "nodes", "model": "other", "sparsity": 0.6}.items():
        other = timed(one, 1.0)
        other = dataclasses.replace(other, trial=dict(other.trial) | {key: value})
        assert not smaller_networks.latencies(compared([one]), {one.identity: one}, [other]).passes


def test_ticks_have_room(drawings: list[Any]) -> None:
    accuracy_by_size(compared(some()), Latencies(), PATH)
    axes = drawings[0].axes[0]
    share_axis(axes, [2.0, 100.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "5", "20", "50"]
    for start in (0.01, 0.1, 1.0, 10.0):
        share_axis(axes, [start, 10 * start])
        assert [label.get_text() for label in axes.get_xticklabels()] == [f"{start * n:g}" for n in (1, 2, 5, 10)]
    share_axis(axes, [])
    assert axes.get_xlim() == (0.8, 125)


def test_smaller_networks_have_their_own_time_of_training(drawings: list[Any]) -> None:
    """Scoring takes 0.25 s; a step of 32 images of the dense network, of 500 a second, 0.064 s."""
    comparison = compared(some())
    pareto(comparison, 0.5, PATH)
    (axes,) = drawings[0].axes
    shown = {str(line.get_label()): float(line.get_xdata()[0]) for line in axes.lines[:-1]}
    assert shown == {"snip": 4.25, "snap": 2.25}
    assert names(axes)[1] == (
        "seconds: scoring, median over seeds, and training, median of all other trials;\n"
        "of a smaller network, of its own"
    )
    assert bar_charts.mask_costs(comparison, PATH)
    assert [text.get_text() for text in drawings[1].axes[0].texts] == ["3.91", "3.91"]
    bar_charts.mask_costs(compared([smaller("snap", 0.5, 0, 0.9)]), PATH)  # no other steps are known
    assert [text.get_text() for text in drawings[2].axes[0].texts] == ["7.81"]


def test_single_weights_that_are_removed_besides_save_no_time() -> None:
    shares = {"weight_sparsity": 0.25, "flop_sparsity": 0.3}
    records = [*some(), *(smaller("cnip:tied=sum", 0.5, seed, 0.88, **shares) for seed in (0, 1))]
    (line,) = smaller_networks.also_masked(compared(records))
    assert line == (
        "cnip removes single weights, too: they are zeros in the smaller network, which save no time, and are counted "
        "among the weights and FLOPs left."
    )
    (former,) = smaller_networks.also_masked(compared([*some(), smaller("cnip", 0.5, 0, 0.88)]))
    assert former.endswith("save no time, and were not counted by earlier versions.")
    assert f"* {line}" in "\n".join(sections(records))
    assert not list(smaller_networks.also_masked(compared(some())))


def test_the_smaller_network_has_weights_that_a_mask_removes_besides(drawings: list[Any]) -> None:
    """So its shares are not those under the mask: 3 x 700 x 2,000 = 4.2e6."""
    record = smaller("cnip", 0.5, 0, 0.88, weight_sparsity=0.25, flop_sparsity=0.3)
    found = compared([*some(), record])
    (row,) = (row for row in smaller_networks.table(found) if row[0] == "cnip")
    assert [*row[2:5], *row[9:]] == ["40", "75", "70", "4.2e+06", "1.43"]
    accuracy_by_size(found, Latencies(), PATH)
    assert [points(axes)["cnip"][0][0] for axes in drawings[0].axes] == [40, 75, 70]


def test_weights_and_operations_under_a_mask_are_not_those_of_the_smaller_network(drawings: list[Any]) -> None:
    """Records of earlier versions hold them without the single weights that cnip removes."""
    found = compared([*some(), smaller("cnip", 0.5, 0, 0.88)])
    head, *rows = smaller_networks.table(found)
    (row,) = (dict(zip(head, row, strict=True)) for row in rows if row[0] == "cnip")
    unknown = ("weights left", "FLOPs left", "training FLOPs", "times fewer")
    assert [row.pop(name) for name in unknown] == [""] * 4
    assert (row["nodes left"], row["times faster"], row["images/s"]) == ("40", "2", "1,000")
    accuracy_by_size(found, Latencies(), PATH)
    assert [sorted(points(axes)) for axes in drawings[0].axes] == [["cnip", "snap"], ["snap"], ["snap"]]


def test_a_panel_without_any_known_value_is_empty(drawings: list[Any]) -> None:
    accuracy_by_size(compared([network(None, 0.0, 0, 0.9), smaller("cnip", 0.5, 0, 0.88)]), Latencies(), PATH)
    assert [sorted(points(axes)) for axes in drawings[0].axes] == [["cnip"], [], []]


def test_times_with_different_numbers_of_threads_are_not_mixed() -> None:
    records = some()
    comparison, by_identity = compared(records), {one.identity: one for one in records}
    more = dataclasses.replace(ENVIRONMENT, threads=8)
    costs = [timed(records[2], 0.25), timed(records[3], 0.125), timed(records[2], 0.1, environment=more)]
    for order in (costs, costs[::-1]):
        found = smaller_networks.latencies(comparison, by_identity, order)
        assert found.machine == "a cpu, 2 threads"
        assert sorted(one.seconds for one in found.passes.values()) == [0.125, 0.25]
    gpu = dataclasses.replace(ENVIRONMENT, device="a GPU")
    assert smaller_networks.machine_and_threads(timed(records[2], 1.0, device="cuda", environment=gpu)) == "a GPU"


def test_an_axis_that_holds_fewer_than_two_ticks_is_linear(drawings: list[Any]) -> None:
    accuracy_by_size(compared(some()), Latencies(), PATH)
    axes = drawings[0].axes[0]
    for shares, scale in (([70.0, 80.0], "linear"), ([10.0, 40.0], "log"), ([45.0], "linear")):
        axes.set_xscale("linear")
        share_axis(axes, shares)
        assert axes.get_xscale() == scale
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2


def test_marks_are_named_in_the_legend(drawings: list[Any]) -> None:
    dead = smaller("snap", 0.5, 0, 0.5, dead_layers=("b.weight",))
    accuracy_by_size(compared([network(None, 0.0, 0, 0.9), dead]), Latencies(), PATH)
    (legend,) = drawings[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "a layer is dead", "snap"]


def test_which_trainings_an_axis_of_seconds_counts(drawings: list[Any]) -> None:
    own = compared([network(None, 0.0, 0, 0.9), smaller("snap", 0.5, 0, 0.9)])
    pareto(own, 0.5, PATH)
    assert names(drawings[0].axes[0])[1].endswith(", and training, median of its own trials")
    pareto(compared([network(None, 0.0, 0, 0.9), network("snip", 0.5, 0, 0.7)]), 0.5, PATH)
    assert names(drawings[1].axes[0])[1].endswith(", and training, median of all trials")
