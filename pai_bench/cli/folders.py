"""The verbs `verify` and `merge`: results folders as files."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console, print_table, progress_bar
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def verify(arguments: argparse.Namespace) -> int:
    """``pai-bench verify``."""
    from pai_bench.results import Store, verification

    store, console = Store(arguments.results), make_console()
    if store.archived and arguments.repair:
        raise UserError(f"{store.label} is a file of records, of which nothing can be set aside: leave --repair out")

    def named(path: Path) -> str:
        return printable(str(store.label / path.relative_to(store.path)))

    def look() -> verification.Verification:
        with counted(console, "verifying") as on_file:
            return verification.verify(store, on_file)

    found = look()
    while arguments.repair and (done := verification.repair(store, found.problems)):
        why = {problem.path: problem.why for problem in found.problems}
        for path, aside in done.items():
            became = "removed" if aside is None else f"set aside as {printable(aside.name)}"
            line = f"{named(path)}: {printable(why[path])}: {became}"
            console.print(line, style="yellow", markup=False, soft_wrap=True)
        found = look()  # what belonged to them may belong to nothing now
    print_table(console, [["folder", "files"], *([name, f"{number:,}"] for name, number in found.whole.items())])
    if found.without_checksum:
        what = "have no checksum, as in earlier versions: only their settings could be checked"
        console.print(f"{found.without_checksum:,} of them {what}")
    if found.set_aside:
        console.print(f"damaged files that were set aside, and that nothing reads: {found.set_aside:,}")
    if found.others:
        others = ", ".join(map(named, found.others))
        console.print(f"no files of results, which nothing reads: {others}", markup=False, soft_wrap=True)
    for problem in found.problems:
        line = f"{named(problem.path)}: {printable(problem.why)}"
        console.print(line, style="red", markup=False, soft_wrap=True)
    total, number = sum(found.whole.values()), len(found.problems)
    if not number:
        console.print(f"all {total:,} files are whole")
        return 0
    cures = not arguments.repair and any(problem.cure != "none" for problem in found.problems)
    hint = "; --repair sets damaged files aside, and their trials run again" if cures else ""
    whole = "1 file is" if total == 1 else f"{total:,} files are"
    console.print(f"{whole} whole, and {number:,} {'is' if number == 1 else 'are'} not{hint}")
    return FAILED


def merge(arguments: argparse.Namespace) -> int:
    """``pai-bench merge``."""
    from pai_bench.results import Store, merging

    sources, console = [Store(path) for path in arguments.folders], make_console()
    with counted(console, "merging") as on_file:
        counts = merging.merge(sources, Path(arguments.output), on_file)
    new = ", ".join(f"{number:,} {folder}" for folder, number in counts.items()) or "nothing new"
    console.print(f"{arguments.output}: {new}", markup=False, soft_wrap=True)
    left_out = [(store.label / name, why) for store in sources for name, why in store.left_out.items()]
    for path, why in left_out:
        line = f"{printable(str(path))} is left out: {printable(why)}"
        console.print(line, style="red", markup=False, soft_wrap=True)
    return FAILED if left_out else 0


@contextmanager
def counted(console: "Console", label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, and the function that says how many files are done, and of how many."""
    with progress_bar(console, label) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def printable(text: str) -> str:
    """A text in which characters that a terminal acts on are escaped: a name of a file may hold any."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
