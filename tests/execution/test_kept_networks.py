"""Kept networks and metrics that are damaged, of others, or cannot be written."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import pai_bench as pb
from pai_bench.experiment.kept_networks import Cost, encode
from pai_bench.results import Store, TrialMetrics
from tests.execution.evaluated import run
from tests.report.records import fields_of


def kept_of(criterion: str) -> Path:
    """The file of a kept network."""
    return next(Path("r/networks").glob(f"*-{criterion}-*"))


@pytest.mark.parametrize("damage", ["cut", "other trial", "other network", "gone"])
def test_a_kept_network_that_cannot_be_used_stops_no_other(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    run(keep_networks=True)
    path = kept_of("snip")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other trial":
        path.write_bytes(kept_of("random").read_bytes())
    elif damage == "other network":
        path.write_bytes(encode(nn.Linear(2, 2), None, Cost(), path.stem))
    else:  # meanwhile, by another process
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pai_bench.results.networks.NetworkFolder.holds", lambda *_: True)
        frame, _ = run(evaluate="loss", keep_networks=True)
    assert frame["loss"].isna().tolist() == (frame.criterion == "snip").tolist()
    (said,) = (text for text in caplog.messages if path.stem in text)
    why = {"cut": "is damaged", "other trial": "is damaged: it holds the network", "gone": "has been removed meanwhile"}
    assert f"the network {path.stem} {why.get(damage, 'has other parameters than that of its trial')}" in said
    path.unlink(missing_ok=True)
    frame, seen = run(evaluate="loss", keep_networks=True)
    assert frame["loss"].notna().all()
    assert len(seen.trained) == 1


def test_nothing_is_evaluated_that_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    run(keep_networks=True)
    Path("r/evaluations").mkdir()
    measured = list[str]()

    def full(_store: Store, path: Path, _content: Any, **_options: Any) -> bool:
        measured.append(path.stem)
        raise _store._write_error(path.parent, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(Store, "_write", full)
    with pytest.raises(pb.UserError, match=r"results folder r can no longer be written \(No space left on device\)"):
        run(evaluate="loss,gap", keep_networks=True)
    assert len(measured) == 1


def test_what_another_process_has_evaluated_meanwhile_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(evaluate="loss", keep_networks=True)
    stored = {path: path.read_bytes() for path in Path("r/evaluations").iterdir()}
    for path in stored:
        path.unlink()

    def claim(_claims: Any, _identity: str) -> bool:
        for path, content in stored.items():
            path.write_bytes(content)
        shutil.rmtree("r/networks", ignore_errors=True)
        return True

    monkeypatch.setattr("pai_bench.results.claims.Claims.claim", claim)
    frame, _ = run(evaluate="loss", keep_networks=True)
    assert frame["loss"].notna().all()
    assert {path: path.read_bytes() for path in Path("r/evaluations").iterdir()} == stored
    assert caplog.messages == []


def test_a_damaged_evaluation_is_set_aside_and_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    frame, _ = run(evaluate="loss,gap", keep_networks=True)
    path = Store("r").path_of(TrialMetrics, frame.identity[0])
    path.write_text(text := path.read_text().replace('"loss"', '"lost"'))
    again, seen = run(evaluate="loss", keep_networks=True)
    assert again["loss"].tolist() == frame["loss"].tolist()
    assert seen.evaluated == [frame.identity[0]]
    assert path.with_suffix(".damaged").read_text() == text
    assert f"{path} is damaged" in caplog.text
    assert "its metrics are missing" in caplog.text


def test_an_evaluation_of_a_later_schema_is_left_alone() -> None:
    frame, _ = run(evaluate="loss", keep_networks=True)
    path = Store("r").path_of(TrialMetrics, frame.identity[0])
    path.write_text(text := json.dumps(fields_of(path.read_text()) | {"schema": 99}))
    with pytest.raises(pb.UserError, match="schema 99 is newer than this version reads"):
        run(evaluate="gap", keep_networks=True)
    assert path.read_text() == text
