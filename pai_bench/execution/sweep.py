"""From a sweep to a results folder: find the missing trials, group them, run them, and report the progress."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.execution.backend import MakeBackend, find_backend
from pai_bench.execution.catalog_run import CatalogRun
from pai_bench.execution.free_space import check_free_space, checkpoint_bytes, record_bytes
from pai_bench.execution.listener import Listener
from pai_bench.execution.probe import close, prepared
from pai_bench.execution.run_log import RunLog
from pai_bench.execution.shards import keep_shard, parse_shard
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Sweep
from pai_bench.results import Record, Store, as_frame
from pai_bench.results.claims import FOLDER, Claims
from pai_bench.results.leftovers import remove_leftovers
from pai_bench.support.arrays import with_torch_defaults

if TYPE_CHECKING:
    import pandas as pd


def run(
    sweep: Sweep,
    out: str | Path = "results",
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
    backend: str = "auto",
    shard: str | None = None,
) -> "pd.DataFrame":
    """Run the trials of `sweep` that the results folder `out` lacks; returns one row for each of its trials.

    `backend` is where they run: ``in-process``, ``processes``, another that is installed, or ``./file.py:FUNCTION``
    (`pai_bench.execution.backend`). By default it is one of the first two: workers, where they are faster or safer.
    `shard`, ``I/N``, is the part of the sweep that this job runs of N that divide it (`pai_bench.execution.shards`).

    Several processes that run a sweep with one folder divide its trials among them. What is being trained is saved
    (`Sweep.checkpoint_every`), and resumed by whoever runs the trial next.
    """
    find_backend(backend)
    part = None if shard is None else parse_shard(shard)
    options: dict[str, Any] = {"listener": listener, "command": command, "backend": backend}
    catalog = prepared(sweep)
    if part is not None:
        keep_shard([catalog], part)
    return as_frame(run_catalog(catalog, out, retry_failed=retry_failed, **options))


def run_catalog(catalog: Catalog, out: str | Path, **options: Any) -> list[Record]:
    """The records of the catalog's trials, in their order, after running those that the folder `out` lacks.

    The masks are in the folder alone. The options are those of `run_catalogs`.
    """
    return run_catalogs([(catalog, out)], **options)[0]


@with_torch_defaults
def run_catalogs(
    pairs: Sequence[tuple[Catalog, str | Path]],
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
    backend: str = "auto",
) -> list[list[Record]]:
    """The records of each of several catalogs, one after the other, with the folders where they are stored.

    How all of them are run is determined first, so that one remaining time can be shown.
    """
    make_backend = find_backend(backend)
    listener, parts, earlier = listener or Listener(), list[CatalogRun](), dict[Path, dict[str, bool]]()
    try:
        with RunLog() as log:
            for catalog, out in pairs:
                store = Store(out, create=True)
                part = CatalogRun(catalog, store, Runner(catalog, command), listener)
                part.find_missing(earlier.setdefault(Path(out).resolve(), {}), retry_failed=retry_failed)
                parts.append(part)
            if folders := [part.store.path for part in parts if part.has_work]:
                log.open(folders, command)
            listener.on_planning(sum(len(part.missing) + len(part.again) for part in parts))
            _plan(parts, make_backend)
            for part in parts:
                listener.on_begin(part.catalog, part.backend, part.new, [*part.missing, *part.again])
            listener.on_ready()
            with claims_on(parts, command) as claims:
                for part in parts:
                    if part.missing or part.again:
                        part.run(claims[part.store.path.resolve()])
                    part.runner.inputs.release()
                evaluated = [part for part in parts if part.catalog.sweep.metrics]
                for part in evaluated:
                    part.evaluate(claims.get(part.store.path.resolve()))
                    part.runner.inputs.release()
                for part in evaluated:  # which may be held against the dense networks of others
                    part.remove_networks()
            return [part.all_records() for part in parts]
    finally:
        listener.on_end()
        close(catalog for catalog, _ in pairs)


def _plan(parts: Sequence[CatalogRun], make_backend: MakeBackend) -> None:
    """Determine how each part is run, and refuse what has no room where it would be stored."""
    needed = []
    for part in parts:
        part.backend = make_backend(part.runner, [*part.missing, *part.again])
        size = record_bytes(part.runner, part.missing)
        size += checkpoint_bytes(part.runner, part.missing, part.backend.plan)
        needed.append((part.store.path, size))
        part.runner.inputs.release()
        if len(parts) > 1:
            close([part.catalog])
    check_free_space(needed)


@contextmanager
def claims_on(parts: Sequence[CatalogRun], command: str | None) -> Iterator[dict[Path, Claims]]:
    """A block with this process's claims on the trials of each results folder that lacks some."""
    for part in parts:  # each, since a process may have been killed after its last trial
        remove_leftovers(part.store.path / FOLDER, part.store.holds)
    with ExitStack() as stack:
        folders = dict.fromkeys(part.store.path.resolve() for part in parts if part.has_work)
        yield {path: stack.enter_context(Claims(path / FOLDER, command=command)) for path in folders}
