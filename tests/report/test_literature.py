"""Published numbers beside ours: only those of the same use of a criterion, at the same sparsity."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import literature, plugin_facts
from pai_bench.report.page import write_report
from pai_bench.report.published_numbers import Published, published, quoted
from pai_bench.report.summary import comparisons
from pai_bench.results import Record, Store, as_frame
from pai_bench.support.registry import MODELS
from pai_bench.training.protocol import get_protocol
from tests.made import Choice
from tests.report.records import drawn, stored

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere


def test_published_numbers_stand_beside_ours() -> None:
    mnist = {"trial": {"data": "mnist", "model": "lenet-300-100"}}
    records = [drawn("snip", 0.98, seed, 0.970 + 0.002 * seed, **mnist) for seed in range(3)]
    (comparison,) = comparisons(as_frame(records))
    (found,) = literature.match_published(comparison)
    assert found.theirs.accuracy == pytest.approx(97.6)  # 2.4 % error in SNIP's Table 1
    assert found.theirs.best_on_test
    assert found.ours == found.best
    assert found.difference == pytest.approx(97.2 - 97.6)
    # s = 0.2 points; t(0.975, 2) s sqrt(1/3 + 1) = 0.994
    assert found.inside == "yes"
    worse = [drawn("snip", 0.98, seed, 0.960 + 0.002 * seed, **mnist) for seed in range(3)]
    assert literature.match_published(next(iter(comparisons(as_frame(worse)))))[0].inside == "no"
    text = write_report(stored("r", records), Path("r.md")).read_text()
    assert (
        "| snip | 0.98 | 97.20 ± 0.20 (3) | 97.20 ± 0.20 (3) | 97.60 | max over kept checkpoints | -0.40 | yes |"
        in text
    )
    assert "100,000 iterations" in text


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([0.144], "too few seeds"),
        ([0.10, 0.188], "too few seeds"),  # 14.4 % on average: the interval of two seeds would hold 97.6 %
        ([0.97, 0.972, 0.1], "1 seed at chance"),
        ([0.1, 0.1, 0.1], "3 seeds at chance"),
        ([0.96, 0.962, 0.961], "no"),
    ],
)
def test_too_few_seeds_are_inside_nothing(accuracies: list[float], said: str) -> None:
    trial = {"data": "mnist", "model": "lenet-300-100"}
    records = [drawn("snip", 0.98, seed, accuracy, trial=trial) for seed, accuracy in enumerate(accuracies)]
    (found,) = literature.match_published(next(iter(comparisons(as_frame(records)))))
    assert found.inside == said
    assert f"| {said} |" in write_report(stored("r", records), Path("r.md")).read_text()


def test_a_spread_of_less_than_an_image_is_raised_to_one() -> None:
    """Three times 97.59 % of 10,000 images, published 97.6 %: that they agree does not show how much they vary."""
    setting: dict[str, Any] = {"trial": {"data": "mnist", "model": "lenet-300-100"}}
    setting["provenance"] = {"data": {"test": 10_000}}
    records = [drawn("snip", 0.98, seed, 0.9759, curve=(), **setting) for seed in range(3)]
    (found,) = literature.match_published(next(iter(comparisons(as_frame(records)))))
    assert found.ours.deviation == pytest.approx(0)
    assert found.resolution == pytest.approx(0.01)
    assert found.inside == "yes"
    assert dataclasses.replace(found, resolution=0.0).inside == "no"


OTHER_NETWORKS = {
    *("resnet-20 (3x3 convolutions as shortcuts, batch norm without running statistics)", "resnet-34 (7x7 stem)"),
    "resnet-50 (7x7 stem)",
    *(
        "vgg-16-bn (three linear layers)",
        "vgg-11-bn-tiny",
        "vgg-16-bn-tiny",
        "wide-resnet-18",
        "resnet-110",
    ),
}
"""Names that are not, or not yet, those of a network that is here."""


def at_chance(one: Published) -> bool:
    facts = plugin_facts.data_set(one.data)[1]
    return literature.at_chance(one, facts.classes if facts else math.nan)


def test_every_published_number_is_whole() -> None:
    assert len(published()) == 1529
    assert len(quoted()) == 14
    for one in (*published(), *quoted()):
        assert 0 < one.accuracy < 100
        assert 0 <= one.sparsity < 1
        assert all((one.source, one.table, one.data, one.model, one.criterion, one.selection))
        assert math.isnan(one.deviation) or one.deviation >= 0
        assert one.seeds is None or one.seeds > 0
        if one.deviation == 0 and not at_chance(one):
            assert one.seeds != 1
    assert {one.model for one in published()} - {plugin.name for plugin in MODELS.plugins()} <= OTHER_NETWORKS


def test_a_network_that_its_masks_have_emptied_is_labelled() -> None:
    """The note of a published number stands beside it, and what is no better than guessing is said to be so."""
    empty = [one for one in published() if "layers are empty" in one.note]
    assert len(empty) == 8
    assert sum(map(at_chance, empty)) == 7  # of one, in one seed of three alone
    trial = {"data": "cifar10", "model": "vgg-16-bn (three linear layers)"}
    records = [drawn("grasp", 0.95, seed, 0.9, trial=trial) for seed in range(3)]
    text = write_report(stored("r", records), Path("r.md")).read_text()
    (row,) = (line for line in text.splitlines() if "ramanujan-on-pai" in line and line.startswith("| grasp"))
    assert "| 10.00 ± 0.00 (3), at chance |" in row
    assert "by the authors' layer files 15 of 16 layers are empty" in row
    records = [drawn("grasp", 0.95, seed, 0.9, trial=trial | {"model": "vgg-16-bn"}) for seed in range(3)]
    assert "ramanujan" not in write_report(stored("s", records), Path("s.md")).read_text()


@pytest.mark.parametrize(
    ("model", "data", "criterion", "sparsity"),
    [
        ("resnet-20", "cifar10", "snip", 0.892626),  # other shortcuts in arXiv:2512.07142
        ("resnet-20-identity", "cifar10", "snip", 0.892626),
        ("vgg-16-bn", "tiny-imagenet", "snip", 0.9),  # three linear layers in SynFlow's
        ("vgg-16-bn", "cifar10", "grasp", 0.892626),  # |H g| in arXiv:2512.07142
        ("resnet-34", "cifar10", "snip", 0.95),  # another stem in ramanujan-on-pai
        ("resnet-50", "imagenet", None, 0.0),  # another stem in all of them
        ("resnet-50", "imagenet", "magnitude", 0.8),
    ],
)
def test_no_number_stands_beside_another_network_or_criterion(
    model: str, data: str, criterion: str | None, sparsity: float
) -> None:
    trial = {"data": data, "model": model}
    (comparison,) = comparisons(as_frame([drawn(criterion, sparsity, seed, 0.9, trial=trial) for seed in range(3)]))
    assert literature.match_published(comparison) == []


def test_networks_of_a_paper_stand_under_our_name() -> None:
    trial = {"data": "tiny-imagenet", "model": "vgg-16-bn-tiny"}
    (comparison,) = comparisons(as_frame([drawn("snip", 0.9, seed, 0.5, trial=trial) for seed in range(3)]))
    (found,) = literature.match_published(comparison)
    assert found.theirs.source.startswith("arXiv:2006.05467")


@pytest.mark.parametrize(
    ("name", "published"), [("rigl", 93.1), ("set", 92.9), ("rigl:layers=uniform:first-layer=dense", 92.6)]
)
def test_criteria_of_a_paper_stand_under_our_name(name: str, published: float) -> None:
    trial = {"data": "cifar10", "model": "wrn-22-2-dropout", "scope": "quota"}
    (comparison,) = comparisons(as_frame([drawn(name, 0.8, seed, 0.9, trial=trial) for seed in range(3)]))
    (found,) = literature.match_published(comparison)
    assert (found.theirs.accuracy, found.theirs.protocol) == (published, "rigl-cifar-reproduced")
    (other,) = comparisons(as_frame([drawn(name, 0.8, 0, 0.9, trial=trial | {"model": "wrn-22-2"})]))
    assert not literature.match_published(other)


def test_masks_that_are_made_during_training_do_not_stand_beside_those_made_before() -> None:
    trial = {"data": "mnist", "model": "lenet-300-100"}
    (usual,) = comparisons(as_frame([drawn("snip", 0.95, 0, 0.98, trial=trial)]))
    (late,) = comparisons(as_frame([drawn("snip", 0.95, 0, 0.98, trial=trial | {"prune_at": "50%"})]))
    assert literature.match_published(usual)
    assert not literature.match_published(late)


@pytest.mark.parametrize(
    ("name", "schedule", "told"),
    [
        ("snip:bn=train", "one-shot", True),
        ("snip:bn=train:score-init=redrawn", "one-shot", True),
        ("grasp:bn=eval", "one-shot", True),
        ("synflow:bn=train", "exponential:steps=100", True),
        ("synflow:bn=train", "one-shot", False),
        ("snip:loss=nll", "one-shot", False),
        ("snip:bn=train:ties=keep", "one-shot", False),
    ],
)
def test_published_numbers_stand_beside_either_mode_of_batch_norm(name: str, schedule: str, told: bool) -> None:
    """Codes of one criterion disagree on it; the option is named."""
    trial = {"data": "cifar10", "model": "vgg-16-bn"}
    records = [drawn(name, 0.9, seed, 0.9, schedule=schedule, trial=trial) for seed in range(3)]
    found = literature.match_published(comparisons(as_frame(records))[0])
    assert [one.method for one in found] == [name] * told
    text = write_report(stored("r", records), Path("r.md")).read_text()
    plain, options = name.partition(":")[0], name.partition(":")[2].replace(":", " and ")
    assert (f"* {name}: beside published numbers of {plain}. Ours has the option {options}." in text) is told


def test_rivals_are_rows_of_their_own() -> None:
    """Those of SNIP's table 1: never among the numbers beside ours, and only below that table."""
    for model, error in (("lenet-300-100", 2.0), ("lenet-5-caffe", 0.9)):
        trial = {"data": "mnist", "model": model}
        records = [drawn("snip", 0.98, seed, 0.98, trial=trial) for seed in range(3)]
        text = write_report(stored(model, records), Path("r.md")).read_text()
        ours, _, rest = text.partition("Other methods in the same published tables")
        rows = [
            line for line in rest.partition("![")[0].splitlines() if "arXiv:1810.02340 (ICLR 2019), Table 1;" in line
        ]
        assert [row.split(" | ")[0] for row in rows] == [
            f"| {n}" for n in ("LWC", "DNS", "LC", "SWS", "SVD", "OBD", "L-OBS")
        ]
        assert f"| {100 - error:.2f} | arXiv:1810.02340 (ICLR 2019), Table 1; Guo et al. 2016" in rows[1]
        assert "LWC" not in ours
    trial = {"data": "mnist", "model": "lenet-300-100"}
    other = [drawn("snip", 0.9, seed, 0.98, trial=trial) for seed in range(3)]  # of figure 3 alone
    text = write_report(stored("other", other), Path("r.md")).read_text()
    assert "### Beside published numbers" in text
    assert "LWC" not in text
    assert {one.criterion for one in published()}.isdisjoint(one.criterion for one in quoted())


def test_other_uses_of_a_criterion_do_not_stand_beside_published_numbers() -> None:
    trial: dict[str, Any] = {"data": "mnist", "model": "lenet-300-100"}
    for change in ({"scope": "layerwise"}, {"target": "effective"}, {"variant": "shuffle"}, {"min_per_layer": 1}):
        (comparison,) = comparisons(as_frame([drawn("snip", 0.98, 0, 0.97, trial=trial | change)]))
        assert literature.match_published(comparison) == []
    iterative = drawn("snip", 0.98, 0, 0.97, trial=trial, schedule="linear:steps=3")
    assert literature.match_published(comparisons(as_frame([iterative]))[0]) == []
    (comparison,) = comparisons(as_frame([drawn("snip", 0.9, 0, 0.97, trial=trial | {"score_batch": 100})]))
    notes = [one.theirs.note for one in literature.match_published(comparison)]
    assert "score batch 100" in notes
    assert not {"score batch 1", "score batch 1000"} & set(notes)


@pytest.mark.parametrize(("ours", "known"), [(0.9995, False), (0.999, True), (0.9985, False)])
def test_published_sparsities_are_those_that_leave_as_much(ours: float, known: bool) -> None:
    trial = {"data": "cifar10", "model": "vgg-16-bn"}
    (comparison,) = comparisons(as_frame([drawn("snip", ours, 0, 0.9, trial=trial)]))
    found = {one.theirs.sparsity for one in literature.match_published(comparison)}
    assert all(abs(1 - (1 - one) / (1 - ours)) < 0.011 for one in found)
    assert bool(found) == known


def table_3(law: str, **trial: object) -> list[Record]:
    """Trials of SNIP's table 3."""
    choice = Choice(name=f"snip:score-init={law}", options=(("score_init", law),))
    setting = {"data": "mnist", "model": "lenet-300-100", "criterion": choice, "init": "vs-x", **trial}
    return [drawn("snip", 0.9, seed, 0.98, protocol=get_protocol("snip-mnist"), trial=setting) for seed in range(2)]


def test_published_numbers_stand_beside_the_same_initialisations() -> None:
    for law in ("rn", "tn", "vs-x", "vs-h"):
        (comparison,) = comparisons(as_frame(table_3(law)))
        (found,) = literature.match_published(comparison)
        assert f"score initialisation {law}; training initialisation vs-x" in found.theirs.note
    for records in (table_3("rn", init="own"), table_3("rn", label_noise=0.5), table_3("rn", validation=0.1)):
        assert literature.match_published(comparisons(as_frame(records))[0]) == []
    redrawn = table_3("redrawn", init="own")
    assert len(literature.match_published(comparisons(as_frame(redrawn))[0])) == 1
    plain = [drawn("snip", 0.9, 0, 0.98, trial={"data": "mnist", "model": "lenet-300-100"})]
    notes = [one.theirs.note for one in literature.match_published(comparisons(as_frame(plain))[0])]
    assert notes == ["score batch 100"]


def test_another_initialisation_of_ours_is_named() -> None:
    """Numbers whose table does not say how weights were drawn stand beside any, as beside any protocol."""
    setting = {"data": "cifar10", "model": "vgg-16-bn"}
    for init in ("own", "openlth"):
        records = [drawn("snip", 0.9, seed, 0.9, trial=setting | {"init": init}) for seed in range(3)]
        (comparison,) = comparisons(as_frame(records))
        found = literature.match_published(comparison)
        assert len(found) == 1
        lines = [line for line in literature.protocols(found, comparison) if "Ours start from weights drawn by" in line]
        assert [line.split("`")[1] for line in lines] == ["openlth"] * (init == "openlth")
    (stated,) = comparisons(as_frame(table_3("rn")))
    assert not any("Ours start" in line for line in literature.protocols(literature.match_published(stated), stated))


def test_numbers_of_one_paper_are_by_the_protocol_that_their_note_names() -> None:
    (adam,) = comparisons(as_frame(table_3("rn")))
    assert [one.theirs.protocol for one in literature.match_published(adam)] == ["snip-mnist-adam"]
    (text,) = list(literature.protocols(literature.match_published(adam), adam))[1:]
    assert "Adam, learning rate 0.001" in text
    assert "weight decay 0," in text
    (length,) = (one.split(", ")[0] for one in [adam.protocol])
    assert "What differs: Adam, learning rate 0.001" in text
    assert "ours: SGD, learning rate 0.1" in text
    assert length not in text.partition("What differs")[2]  # it is the same
    same = [dataclasses.replace(literature.match_published(adam)[0], theirs=published()[0])]
    assert [line[-18:] for line in literature.protocols(same, dataclasses.replace(adam, train_fraction=0.9))][-1:] == [
        "Ours are the same."
    ]
    plain = [drawn("snip", 0.95, 0, 0.98, trial={"data": "mnist", "model": "lenet-300-100"})]
    assert [p.theirs.protocol for p in literature.match_published(comparisons(as_frame(plain))[0])] == ["snip-mnist"]
    assert {p.protocol for p in published() if "2512.07142" in p.source} == {None}


def test_another_law_is_another_draw() -> None:
    store = Store("r", create=True)
    for one in table_3("vs-h"):
        store.write(one)
    assert "scores another draw" not in write_report(store, store.path / "report.md").read_text()
