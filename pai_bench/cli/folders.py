"""The verbs `verify` and `merge`: results folders as files."""

import argparse
from pathlib import Path

from pai_bench.cli.console import FAILED, make_console, print_table, progress_bar


def verify(arguments: argparse.Namespace) -> int:
    """``pai-bench verify``."""
    from pai_bench.results import Store
    from pai_bench.results.verification import repair
    from pai_bench.results.verification import verify as look

    store, console = Store(arguments.results), make_console()
    with progress_bar(console, "verifying") as progress:
        task = progress.add_task("", total=None)
        found = look(store, lambda done, total: progress.update(task, completed=done, total=total))
    rows = [["folder", "files"], *([name, f"{number:,}"] for name, number in found.whole.items())]
    print_table(console, rows)
    if found.without_checksum:
        what = "have no checksum, as in earlier versions: only their settings could be checked"
        console.print(f"{found.without_checksum:,} of them {what}")
    if found.set_aside:
        console.print(
            f"damaged files that were set aside before (*.damaged*), and that nothing reads: {found.set_aside:,}"
        )
    if found.others:
        console.print(f"no files of results, which nothing reads: {', '.join(map(str, found.others))}", soft_wrap=True)
    done, left = repair(found.problems) if arguments.repair else ({}, found.problems)
    for problem in found.problems:
        if problem.path in done:
            aside = done[problem.path]
            became = "removed" if aside is None else f"set aside as {aside.name}"
            console.print(f"{problem.path}: {problem.why}: {became}", style="yellow", markup=False, soft_wrap=True)
    for problem in left:
        console.print(f"{problem.path}: {problem.why}", style="red", markup=False, soft_wrap=True)
    total = sum(found.whole.values())
    if not left:
        console.print(f"all {total:,} files are whole")
        return 0
    cures = not arguments.repair and any(problem.cure != "none" for problem in left)
    hint = "; --repair sets damaged files aside, and their trials run again" if cures else ""
    whole = "1 file is" if total == 1 else f"{total:,} files are"
    console.print(f"{whole} whole, and {len(left):,} {'is' if len(left) == 1 else 'are'} not{hint}")
    return FAILED


def merge(arguments: argparse.Namespace) -> int:
    """``pai-bench merge``."""
    from pai_bench.results import Store
    from pai_bench.results.merging import merge as join

    sources, console = [Store(path) for path in arguments.folders], make_console()
    with progress_bar(console, "merging") as progress:
        task = progress.add_task("", total=None)
        counts = join(
            sources, Path(arguments.output), lambda done, total: progress.update(task, completed=done, total=total)
        )
    new = ", ".join(f"{number:,} {folder}" for folder, number in counts.items()) or "nothing new"
    console.print(f"{arguments.output}: {new}")
    left_out = [(store.label / name, why) for store in sources for name, why in store.left_out.items()]
    for path, why in left_out:
        console.print(f"{path} is left out: {why}", style="red", markup=False, soft_wrap=True)
    return FAILED if left_out else 0
