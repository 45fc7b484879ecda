"""Networks that have changed: no stored result of the old one is taken for the new one's, and no other is lost."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.support.identity import identify
from pai_bench.support.networks import name_of
from tests.report.records import record


def trial(model: str, **changes: Any) -> Trial:
    keys: dict[str, Any] = {"models": [model], "criteria": ["random"], "sparsities": [0.9], "seeds": 1}
    keys["protocol"] = "short-bn"
    return resolve(pb.Sweep(**keys | changes)).trials[1]


def test_identities_of_networks_that_are_what_they_were() -> None:
    """Pinned: those of the first version of the project."""
    old = trial("resnet-20-identity")
    assert old.identity == OLD
    assert old.configuration()["model"] == "resnet-20"
    assert "model_version" not in old.configuration()
    assert "model_version" not in trial("vgg-11-bn").configuration()


OLD = "digits-resnet-20-random-0.9-s0-d1e7212e95d7"


def test_a_network_that_has_changed_has_other_identities() -> None:
    new = trial("resnet-20")
    assert new.configuration()["model"] == "resnet-20"
    assert new.configuration()["model_version"] == 2
    assert new.identity != OLD
    assert dataclasses.replace(new, model=dataclasses.replace(new.model, version=1)).identity == OLD


@pytest.mark.parametrize(
    ("stored", "version", "shape", "name"),
    [
        ("resnet-20", 1, None, "resnet-20-identity"),
        ("resnet-20", 2, None, "resnet-20"),
        ("resnet-56", 1, None, "resnet-56-identity"),
        ("resnet-56-double", 1, None, "resnet-56-double-identity"),
        ("resnet-32-double", 1, (3, 32, 32), "resnet-32-double-identity"),
        ("resnet-18", 1, None, "resnet-18"),
        ("vgg-16-bn", 1, (3, 32, 32), "vgg-16-bn"),
        ("vgg-16-bn", 1, (3, 64, 64), "vgg-16-bn (version 1)"),
        ("vgg-16-bn", 2, (3, 64, 64), "vgg-16-bn"),
        ("vgg-16-bn", 1, (3, 64, 63), "vgg-16-bn"),
        ("vgg-16-bn", 1, None, "vgg-16-bn"),
        ("vgg-16-bn", 1, (64, 64), "vgg-16-bn"),
        *((f"vgg-{depth}-bn", 1, (3, 64, 64), f"vgg-{depth}-bn (version 1)") for depth in (11, 13, 19)),
        ("vgg-16-bn-tiny", 1, (3, 64, 64), "vgg-16-bn-tiny"),
        ("alexnet-s", 1, (3, 64, 64), "alexnet-s (version 1)"),
        ("vgg-like", 1, (3, 64, 64), "vgg-like (version 1)"),
        ("vgg-like", 1, (3, 32, 32), "vgg-like"),
    ],
)
def test_names_of_stored_results(stored: str, version: int, shape: tuple[int, ...] | None, name: str) -> None:
    assert name_of(stored, version, shape) == name


def test_results_of_both_networks_stand_apart_in_tables(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    for version in (1, 2):
        one = record("snip", 0.9, 0, 0.5 + version / 10)
        changed = {**one.trial, "model": "resnet-20"} | ({"model_version": 2} if version == 2 else {})
        store.write(dataclasses.replace(one, trial=changed, identity=identify("resnet-20", changed)))
    frame = pb.read_results(tmp_path)
    assert sorted(frame.model) == ["resnet-20", "resnet-20-identity"]
    earlier = next(one for one in store if "model_version" not in one.trial)
    assert Record.from_json(earlier.to_json()).row()["model"] == "resnet-20-identity"


def test_a_function_of_ones_own_with_the_name_of_a_network_has_no_version() -> None:
    def resnet(shape: tuple[int, ...], classes: int) -> Any:
        return pb.create_model("lenet-300-100", input_shape=shape, num_classes=classes)

    resnet.__name__ = "resnet-20"
    assert trial(resnet).model.version == 1  # type: ignore[arg-type]
    vars(resnet)["version"] = 3
    assert trial(resnet).configuration()["model_version"] == 3  # type: ignore[arg-type]
