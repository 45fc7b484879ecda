"""The results folder: one JSON file per finished trial, written beside its final name and renamed."""

import errno
import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pai_bench.results import archive
from pai_bench.results.measurements import TrialMetrics
from pai_bench.results.records import Record
from pai_bench.results.stored import (
    LONGEST,
    MALFORMED,
    NewerSchemaError,
    Stored,
    UnstorableError,
    UnwritableError,
)
from pai_bench.support import infile, outfile
from pai_bench.support.errors import UserError, reason
from pai_bench.support.garbage import no_collection
from pai_bench.training.protocol import Protocol

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

PAUSES = (1.0, 5.0, 30.0)
"""Seconds before a result is written once more after an error that may pass."""

CHECKPOINTS = "checkpoints"
"""Where trials that are trained are saved, in a results folder."""

NETWORKS = "networks"
"""Where networks are kept that other trials begin with."""

Result = TypeVar("Result", bound=Stored)


class Store:
    """A results folder. `create` makes it; without, it must be there.

    A file of records (`pai_bench.results.archive`), or a folder that holds one and no results, is read like the folder
    that it was made of.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = self.label = Path(path)
        """Where the results are, and what messages call it."""
        self.report_folder = self.path
        """Where a report is written by default."""
        self.left_out: dict[str, str] = {}
        """File, or line of a file of records -> why it could not be read."""
        self._made: set[Path] = set()
        """Folders that are not made again: one that vanishes has taken results with it."""
        self._written = 0
        if not create and archive.is_archive(self.path):
            self.report_folder = self.path if self.path.is_dir() else self.path.parent
            self.path, unread = archive.unpack(self.path)
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
            for name, why in unread.items():
                self._leave_out(name, why)
        self.folders = [self.path / name for name in archive.FOLDERS]
        self.trials = self.path / Record.folder
        if create:
            self._create()
        elif not archive.has_results(self.path):
            raise UserError(self._why_empty())

    def _create(self) -> None:
        """Make the folder, and remove what killed processes have left in it."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            outfile.remove_abandoned(self.trials)
        except (OSError, ValueError) as error:
            raise UserError(
                f"results folder {self.path} cannot be written ({reason(error)}); give another with --out"
            ) from error
        self._made.add(self.trials)
        for folder in (*self.folders, self.path / CHECKPOINTS, self.path / NETWORKS):
            with suppress(OSError):  # nothing may have to be written there
                outfile.remove_abandoned(folder)

    def _why_empty(self) -> str:
        if self.archived:
            return f"{self.label} has no records; `pai-bench report RESULTS --records` writes them"
        if self.path.is_file():
            return (
                f"{self.path} is a file, not a results folder; one of records is called NAME{archive.SUFFIX}, and "
                "`pai-bench run --out FOLDER` makes a folder"
            )
        state = "has no results" if self.path.is_dir() else "does not exist"
        return f"results folder {self.path} {state}; `pai-bench run --out {self.path}` makes some"

    @property
    def archived(self) -> bool:
        """Whether it is a file of records, without masks."""
        return self.path != self.label

    def check_report_path(self, path: Path) -> None:
        """Raise UserError if a document is to be written to where the results are."""
        if {folder.resolve() for folder in self.folders} & {*path.resolve().parents}:
            raise UserError(f"the report cannot be written to {path}, where the results are")

    def path_of(self, result_type: type[Stored], identity: str) -> Path:
        """Where a result of this type is stored."""
        return self.path / result_type.folder / f"{identity}.json"

    def mask_of(self, identity: str) -> Path:
        """Where the whole mask of a trial is stored whose record has a sample of it."""
        return self.trials / f"{identity}.mask.safetensors"

    def write(self, result: Stored, *, former: Stored | None = None, is_new: bool = False) -> bool:
        """Store `result` whole or not at all, in place of an earlier one of the same identity, or of the `former`.

        One that `is_new` takes no other's place: False if there is one. Raises UnstorableError if it could not be read
        again, and UserError if the folder cannot be written.
        """
        text, path = text_of(result), self.path_of(type(result), result.identity)
        if is_new and os.path.lexists(path):
            return False
        mask = result.pruning.whole_mask if isinstance(result, Record) else None
        if mask is not None and not self._has(self.mask_of(result.identity), mask):
            self._write(self.mask_of(result.identity), mask)
        if not self._write(path, text, is_new=is_new):
            return False
        if isinstance(result, Record):  # what belongs to the network that there was before
            if mask is None:
                self._remove(self.mask_of(result.identity))
            self._remove(self.path_of(TrialMetrics, result.identity))
        if former is not None and former.identity != result.identity:
            self._remove(self.path_of(type(former), former.identity))
        return True

    def _has(self, path: Path, content: bytes) -> bool:
        """Whether a file has this content."""
        with suppress(OSError, ValueError):
            return infile.read(path, len(content)) == content
        return False

    def copy(self, source: Path, target: Path) -> None:
        """Store the content of the file `source` as the file `target` of this folder."""
        try:
            content = source.read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read ({reason(error)})") from error
        self._write(target, content)

    def read_all(self, result_type: type[Result]) -> list[Result]:
        """All results of a type, in the order of their files; a damaged file is named and left out."""
        return list(self._read_all(result_type))

    def read_evaluation(self, identity: str) -> TrialMetrics | None:
        """The evaluation of a trial, or None; a damaged file is named and left out."""
        path = self.path_of(TrialMetrics, identity)
        return next(self._read([path], TrialMetrics), None) if os.path.isfile(path) else None

    def with_metrics(self, record: Record) -> Record:
        """A record with what was evaluated of its network later."""
        return joined(record, self.read_evaluation(record.identity))

    def _read_all(self, result_type: type[Result]) -> Iterator[Result]:
        return self._read(sorted((self.path / result_type.folder).glob("*.json")), result_type)

    def _read(self, paths: Iterable[Path], result_type: type[Result]) -> Iterator[Result]:
        for path in paths:
            try:
                result = read(result_type, path)
            except (ValueError, OSError) as error:
                self._leave_out(path.relative_to(self.path).as_posix(), error)
            else:
                yield result

    def _leave_out(self, name: str, error: Exception | str) -> None:
        logger.warning("%s cannot be read (%s) and is left out", self.label / name, error)
        self.left_out[name] = f"{type(error).__name__}" if isinstance(error, OSError) else str(error)

    def _write(self, path: Path, content: str | bytes, *, is_new: bool = False) -> bool:
        try:
            if path.parent not in self._made:
                path.parent.mkdir(exist_ok=True)
                self._made.add(path.parent)
            self._try(lambda: outfile.write_whole(path, content, durable=True, is_new=is_new))
        except FileExistsError:
            return False
        except OSError as error:
            raise self._write_error(path.parent, error) from error
        self._written += path.suffix == ".json"
        return True

    def _try(self, write: Callable[[], None]) -> None:
        """Write, and once more after each pause while an error may pass, as of a network file system."""
        for pause in PAUSES:
            try:
                return write()
            except OSError as error:
                if error.errno not in outfile.PASSING:
                    raise
                logger.warning("%s cannot be written (%s); once more in %g s", self.path, reason(error), pause)
                time.sleep(pause)
        return write()

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._write_error(path.parent, error) from error

    def _write_error(self, folder: Path, error: OSError) -> UnwritableError:
        why, cure = reason(error), ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = f"; {self._written} results of this run are stored: make room, and the same command runs the rest"
        if not os.path.isdir(folder):
            why = f"{folder.name}/ is gone, and with it all results in it, {self._written} of them of this run"
        return UnwritableError(f"results folder {self.path} can no longer be written ({why}){cure}")

    def read(self, identity: str) -> Record | None:
        """The record of a trial, or None. A damaged file is named, set aside and counts as missing."""
        return self._read_or_set_aside(Record, identity, "the trial runs again")

    def read_to_extend(self, identity: str) -> TrialMetrics | None:
        """The evaluation of a trial to which metrics are to be added, as `read` reads records."""
        return self._read_or_set_aside(TrialMetrics, identity, "its metrics are missing")

    def _read_or_set_aside(self, result_type: type[Result], identity: str, then: str) -> Result | None:
        path = self.path_of(result_type, identity)
        try:
            return read(result_type, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NewerSchemaError as error:
            raise UserError(f"{path}: {error}; use that version, or another folder with --out") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read ({reason(error)})") from error
        except ValueError as error:
            aside = free_name(path)
            try:
                path.replace(aside)
            except FileNotFoundError:  # another process was faster
                return None
            except OSError as refusal:
                why = f"{error}, and cannot be set aside: {reason(refusal)}"
                raise UserError(f"{path} is damaged ({why})") from refusal
            logger.warning("%s is damaged (%s): set aside as %s, %s", path, error, aside.name, then)
            return None

    def holds(self, identity: str) -> bool:
        """Whether there is something by the name of a trial, readable or not."""
        return os.path.lexists(self.path_of(Record, identity))

    def get(self, identity: str) -> Record:
        """The record of a trial that must be there; it is left where it is, whatever is wrong with it."""
        path = self.path_of(Record, identity)
        if not os.path.isfile(path):
            raise UserError(f"results folder {self.label} has no trial {identity}")
        try:
            return read(Record, path)
        except (ValueError, OSError) as error:
            raise UserError(f"the record of trial {identity} in {self.label} cannot be read ({error})") from error

    def whole_mask(self, record: Record) -> bytes | None:
        """The content of the file beside a record of which `mask` is a sample; None if there is none."""
        limit = LONGEST + sum(-(-layer.size // 8) for layer in record.pruning.layers)
        with suppress(FileNotFoundError):
            return infile.read(self.mask_of(record.identity), limit)
        return None

    def adopt(self, former: str, identity: str, trial: Mapping[str, Any]) -> Record | None:
        """The record stored as `former`, if there is one, from now on under the `identity` of the same `trial`."""
        record, mask = self.read(former), None
        try:
            if record is not None:
                mask = self.whole_mask(record)
        except (ValueError, OSError) as error:
            raise UserError(f"{self.mask_of(former)} cannot be read ({error})") from error
        if self.holds(identity):  # another process was faster, and has the mask that may be gone here
            return self.read(identity)
        if record is None:
            return None
        pruning = replace(record.pruning, whole_mask=mask)
        record = replace(record, identity=identity, trial=trial, pruning=pruning)
        self.write(record)
        if (evaluation := self.read_evaluation(former)) is not None:
            self.write(replace(evaluation, identity=identity), former=evaluation)
        self._remove(self.path_of(Record, former))
        self._remove(self.mask_of(former))
        return record

    def __iter__(self) -> Iterator[Record]:
        """All records that can be read, with what was evaluated of them; a damaged file is named and left out."""
        metrics = {evaluation.identity: evaluation for evaluation in self._read_all(TrialMetrics)}
        return (joined(record, metrics.get(record.identity)) for record in self._read_all(Record))


def joined(record: Record, metrics: TrialMetrics | None) -> Record:
    """A record with what was evaluated of its network later, if anything was."""
    return record if metrics is None else replace(record, evaluation=replace(record.evaluation, metrics=metrics.row()))


def free_name(path: Path) -> Path:
    """The name beside `path` by which a damaged file is set aside, which nothing reads."""
    return next(p for i in count() if not os.path.lexists(p := path.with_suffix(f".damaged{i or ''}")))


def read(result_type: type[Result], path: Path) -> Result:
    """What the file `path` of a results folder holds; ValueError if it is damaged, or OSError."""
    result = result_type.from_json(infile.read(path, LONGEST))
    result.check_name(path.stem)
    return result


def text_of(result: Stored) -> str:
    """The text of the file of a result; UnstorableError if it could not be read again."""
    try:
        text = result.to_json()
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        type(result).from_json(text).check_name(result.identity)
    except (ValueError, *MALFORMED) as error:
        name = result.identity
        raise UnstorableError(f"the result {name} could not be read again, and is not stored ({error})") from error
    return text


def read_results(path: str | Path) -> "pd.DataFrame":
    """One row per stored trial of the results folder `path`.

    The columns begin with data, model, criterion, variant, sparsity (as requested), seed, and `COLUMNS`; accuracies are
    shares in [0, 1] after the last epoch, times are seconds, memory is bytes. What was not computed is null. The dense
    reference has the criterion ``dense`` and sparsity 0. Metrics that were taken of trained networks stand behind
    these, each as ``NAME``, or its values as ``NAME.KEY``, if there are any.
    """
    store = Store(path)
    if not any(store.trials.glob("*.json")):
        raise UserError(
            f"results folder {path} has no trials, only measurements; `pai-bench run --out {path}` makes some"
        )
    with no_collection():
        return as_frame(store)


def as_frame(records: "Store | list[Record]") -> "pd.DataFrame":
    """Records as a table, one row each; its attribute ``protocols`` has the parts of each protocol by its words."""
    import pandas as pd

    protocols: dict[str, tuple[str, ...]] = {}
    rows = []
    for record in records:
        rows.append(record.row())
        if rows[-1]["protocol"] not in protocols:
            protocols[rows[-1]["protocol"]] = Protocol.of(record.trial["protocol"]).parts()
    frame = pd.DataFrame(rows)
    frame.attrs["protocols"] = protocols
    return frame
