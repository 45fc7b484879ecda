"""The part of a report about pruning during training: its table by hand, its figures, what other parts say of it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import during_training, provenance, smaller_networks
from pai_bench.report.figures import during_training as figures
from pai_bench.report.figures.pareto import pareto
from pai_bench.report.section import FIGURES, section
from pai_bench.results import EpochRecord, Layer, Record
from tests.report.records import PROVENANCE, record
from tests.report.test_figures import compared, curve, names, points

PATH = Path("x.svg")


def network(criterion: str | None, sparsity: float, seed: int, accuracy: float, **keys: Any) -> Record:
    """Of 100 weights and 1,000 operations; 62 steps of 32 examples each take 2 seconds."""
    layers = (Layer(name="a.weight", size=100, kept=round(100 * (1 - sparsity)), flops=1000),)
    usual: dict[str, Any] = {"layers": layers, "flops": 1000, "images_per_second": 992.0}
    return record(criterion, sparsity, seed, accuracy, **usual | keys)


def epochs(*sparsities: float | None) -> tuple[EpochRecord, ...]:
    return tuple(dataclasses.replace(one, sparsity=s) for one, s in zip(curve(1, 1), sparsities, strict=True))


GMP: dict[str, Any] = {
    "score_seconds": None, "events": 3, "event_steps": (20, 30, 40), "event_seconds": 0.5, "training_flops": 3e6,
    "curve": epochs(None, 0.9),
}  # fmt: skip
RIGL: dict[str, Any] = {
    "events": 1, "event_steps": (31,), "event_seconds": 1.0, "training_flops": 7e5, "curve": epochs(0.9, 0.9)
}  # fmt: skip


def some() -> list[Record]:
    """Two seeds of the dense network and of methods that prune before, before and during, and during training."""
    found = []
    for seed in (0, 1):
        found += [network(None, 0, seed, 0.9, curve=epochs(None, None)), network("gmp", 0.9, seed, 0.85, **GMP)]
        found += [network("rigl", 0.9, seed, 0.84, **RIGL | {"event_seconds": 1.0 + seed})]
        found += [network("snip", 0.9, seed, 0.8, curve=epochs(None, None), training_flops=[None, 595200.0][seed])]
    return found


def table(records: list[Record]) -> list[list[str]]:
    found = compared(records)
    return during_training.table(found, during_training.costs(found), {one.identity: one for one in records})


def test_the_table_by_hand() -> None:
    """The dense training is 3 x 1,000 x 1,984 operations; snip's is a tenth, of the record that does not say it too."""
    head, *rows = table(some())
    assert head == [
        *("criterion", "sparsity", "prunes", "changes", "training FLOPs", "of dense, %", "training", "scoring"),
        *("time of changes", "test accuracy, %"),
    ]
    after = "during training, after"
    assert rows == [
        ["dense", "0", "", "", "5.95e+06", "100", "2 s", "", "", "90.00 ± 0.00"],
        ["snip", "0.9", "before training", "", "5.95e+05", "10", "2 s", "250 ms", "", "80.00 ± 0.00"],
        ["rigl", "0.9", f"before and {after} 31 of 62 steps", "1", "7e+05", "11.8", "2 s", "250 ms", "1.5 s",
         "84.00 ± 0.00"],
        ["gmp", "0.9", f"{after} 20 to 40 of 62 steps", "3", "3e+06", "50.4", "2 s", "", "500 ms", "85.00 ± 0.00"],
    ]  # fmt: skip


def test_seeds_that_are_pruned_at_different_steps() -> None:
    """As by ``--prune-when stable``."""
    steps = ((30,), (9,), (30,))
    records = [network("snip", 0.9, i, 0.8, **GMP | {"events": 1, "event_steps": at}) for i, at in enumerate(steps)]
    (row,) = table(records)[1:]
    assert row[2:4] == ["during training, after 9 to 30 of 62 steps, different by seed", "1"]


def test_earlier_sparsities_come_first_and_what_was_not_trained_is_left_out() -> None:
    records = [network("gmp", s, 0, 0.8, **GMP) for s in (0.9, 0.5)] + [network("snip", 0.9, 0, 0.8)]
    records.append(network("rigl", 0.9, 0, 0.1, status="disconnected", train_seconds=None, images_per_second=None))
    assert [row[:2] for row in table(records)[1:]] == [["gmp", "0.5"], ["snip", "0.9"], ["gmp", "0.9"]]


def sections(records: list[Record]) -> list[str]:
    by_identity = {one.identity: one for one in records}
    return section(compared(records), by_identity, Path(), {name: Path(f"{name}.svg") for name in FIGURES}, "x").parts


def test_the_part_of_a_section(drawings: list[Any]) -> None:
    parts = sections(some())
    place = parts.index("### Pruning during training")
    assert parts[place + 1] == during_training.CAPTION
    assert parts[place + 2].startswith("| criterion | sparsity | prunes | changes |")
    assert parts[place + 3 : place + 5] == [
        "![Test accuracy against the cost of training, net on digits](training-cost.svg)",
        "![Sparsity after each epoch, at sparsity 0.9, net on digits](sparsity.svg)",
    ]
    assert parts[place + 5].startswith("<details>")
    assert drawings


IMP: dict[str, Any] = {
    "training_flops": 595200.0, "trainings": 4, "total_training_flops": 1.3e7, "total_train_seconds": 9.0,
    "curve": epochs(None, None),
}  # fmt: skip


def iterative() -> list[Record]:
    """The dense network, one that is pruned in three levels, and one that is pruned before training."""
    return [network(None, 0, 0, 0.9), network("imp", 0.9, 0, 0.88, **IMP), network("snip", 0.9, 0, 0.8)]


def test_all_trainings_of_iterative_pruning_are_counted(drawings: list[Any]) -> None:
    """1.3e7 of 5.952e6 operations, and 9 seconds beside 0.25 of scoring."""
    head, _, before, row = table(iterative())
    assert before[:3] == ["snip", "0.9", "before training"]
    assert dict(zip(head, row, strict=True)) == {
        "criterion": "imp", "sparsity": "0.9", "prunes": "after each of 3 trainings", "changes": "3",
        "training FLOPs": "1.3e+07", "of dense, %": "218", "training": "9 s", "scoring": "250 ms",
        "time of changes": "", "test accuracy, %": "88.00",
    }  # fmt: skip
    assert "### Pruning during training" in sections(iterative())
    costs = drawn(iterative(), drawings)
    assert [points(axes)["imp"][0][0] for axes in costs] == pytest.approx([1.3e7, 9.25])
    (line,) = provenance.unequal_training(compared(iterative()))
    assert line == "networks are trained again at each level (imp): that takes more training FLOPs."


def test_the_share_of_a_dense_training_is_known_without_one() -> None:
    """By another method, which sees all examples; a level may leave out the first steps."""
    level = network("imp", 0.9, 0, 0.88, **IMP, train_seconds=1.0)
    assert [row[5] for row in table([level, network("snip", 0.9, 0, 0.8)])[1:]] == ["10", "218"]


def test_all_trainings_of_iterative_pruning_take_time(drawings: list[Any]) -> None:
    pareto(compared(iterative()), 0.9, PATH)
    (axes,) = drawings[0].axes
    shown = {str(line.get_label()): float(line.get_xdata()[0]) for line in axes.lines[:-1]}
    assert shown == {"snip": 2.25, "imp": 9.25}
    assert names(axes)[1].endswith("median of all other trials;\nof iterative pruning, of its own")


def test_there_is_no_such_part_if_no_mask_changed(drawings: list[Any]) -> None:
    records = [one for one in some() if one.trial["criterion"] is None or one.trial["criterion"]["name"] == "snip"]
    assert not any("during training" in part for part in sections(records))
    assert not list(provenance.unequal_training(compared(records)))
    assert drawings


def test_accuracies_of_random_labels_are_not_drawn(drawings: list[Any]) -> None:
    parts = sections([network("gmp", 0.9, 0, 0.1, trial={"label_noise": 1.0}, **GMP)])
    assert "### Pruning during training" in parts
    assert not any("training-cost.svg" in part for part in parts)
    assert drawings


def test_networks_that_were_trained_in_other_ways(drawings: list[Any]) -> None:
    records = some()
    assert during_training.DIFFERENT not in sections(records)
    records[0] = dataclasses.replace(records[0], provenance=dataclasses.replace(PROVENANCE, lanes=3))
    assert during_training.DIFFERENT in sections(records)
    assert drawings


@pytest.mark.parametrize(("model", "shown"), [("snip-it-resnet-18", True), ("resnet-18", False)])
def test_what_the_authors_of_snip_it_state(drawings: list[Any], model: str, shown: bool) -> None:
    trial = {"data": "cifar10", "model": model}
    name = "snip-it:when=during"
    parts = sections([network(name, 0.98, 0, 0.8, trial=trial, **GMP)])
    assert (
        any(part.startswith(f"* {name.split(':')[0]}: its authors state for their ResNet-18") for part in parts)
        == shown
    )
    assert drawings


def test_equal_sparsity_is_not_equal_cost() -> None:
    (line,) = provenance.unequal_training(compared(some()))
    assert line == "masks change during training (gmp, rigl): equal sparsity does not mean equal training FLOPs."
    assert line in provenance.limits(compared(some()), [])


def drawn(records: list[Record], drawings: list[Any]) -> list[Any]:
    comparison = compared(records)
    figures.accuracy_by_cost(comparison, during_training.costs(comparison), PATH)
    return list(drawings[-1].axes)


def test_accuracy_against_operations_and_seconds(drawings: list[Any]) -> None:
    """Seconds are those of scoring, training and changes: 2.25 for snip; 3.25 and 4.25 for rigl; 2.5 for gmp."""
    operations, seconds = drawn(some(), drawings)
    assert [names(axes)[1] for axes in (operations, seconds)] == list(figures.COSTS.values())
    expected = {"gmp": (3e6, 2.5, 85), "rigl": (7e5, 3.75, 84), "snip": (595200, 2.25, 80)}
    for axes, place in ((operations, 0), (seconds, 1)):
        for name, ((x, y, *_),) in points(axes).items():
            assert (x, y) == pytest.approx((expected[name][place], expected[name][2]))
        (star,) = (line for line in axes.lines if line.get_marker() == "*")
        assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx(((5952000, 2)[place], 90))
    assert operations.get_xscale() == "linear"
    assert seconds.get_xlim()[0] == 0
    (legend,) = drawings[-1].legends
    assert {text.get_text() for text in legend.get_texts()} == {"dense", "dense, at its cost", "gmp", "rigl", "snip"}


def test_the_axis_is_logarithmic_over_more_than_a_decade(drawings: list[Any]) -> None:
    cheap = network("rigl", 0.99, 0, 0.5, **RIGL | {"training_flops": 5e5})
    operations, seconds = drawn([*some(), cheap], drawings)
    assert (operations.get_xscale(), seconds.get_xscale()) == ("log", "linear")


def test_sparsity_from_epoch_to_epoch(drawings: list[Any]) -> None:
    """A mask that is made before training is there at epoch 0; a sparsity of 0 is not in the records."""
    records = [*some(), network("gmp", 0.5, 0, 0.9, **GMP)]
    figures.sparsity_by_epoch(compared(records), {one.identity: one for one in records}, PATH)
    (axes,) = drawings[-1].axes
    shown = {str(line.get_label()): line.get_ydata() for line in axes.lines}
    assert shown == {"gmp": pytest.approx((0, 0, 0.9)), "rigl, snip": pytest.approx((0.9, 0.9, 0.9))}
    assert names(axes) == (
        "net on digits, sparsity 0.9", "epochs of training", "share of the connections that are removed"
    )  # fmt: skip


def test_changes_during_training_take_time_too(drawings: list[Any]) -> None:
    pareto(compared(some()), 0.9, PATH)
    (axes,) = drawings[0].axes
    shown = {str(line.get_label()): float(line.get_xdata()[0]) for line in axes.lines[:-1]}
    assert shown == {"snip": 2.25, "rigl": 3.75, "gmp": 2.5}


def test_what_a_network_saves_that_becomes_smaller_during_training(drawings: list[Any]) -> None:
    """Not what is left of it at the end: 5.952e6 / 3e6."""
    smaller = network("snap-it:when=during", 0.9, 0, 0.8, node_sparsity=0.8, **GMP)
    records = [network(None, 0, 0, 0.9), smaller]
    head, _, row = smaller_networks.table(compared(records))
    cells = dict(zip(head, row, strict=True))
    assert [cells[name] for name in ("FLOPs left", "training FLOPs", "times fewer")] == ["10", "3e+06", "1.98"]
    assert smaller_networks.CAPTION + smaller_networks.AT_THE_END in sections(records)
    assert drawings
