"""``python -m benchmarks.gpu``: run, pack, unpack (docs/gpu.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import archive, pack
from benchmarks.gpu.runner import STAGES, Options, run

EXAMPLE = "python -m benchmarks.gpu --minutes 8 --data PACK --out DIR --resume PACK/previous"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; its exit code."""
    verbs = {"pack": pack_verb, "unpack": unpack_verb}
    verb = verbs.get(arguments[0]) if arguments else None
    return verb(arguments[1:]) if verb else run_verb(arguments)


def run_verb(arguments: Sequence[str]) -> int:
    """The run itself."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__, epilog=f"Example: {EXAMPLE}")
    parser.add_argument("--out", type=Path, required=True, help="where STAGE.tar, summary.txt and log.txt go")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default: 8)")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"some of {','.join(STAGES)}")
    parser.add_argument("--resume", type=Path, help="a folder of an earlier run: only what is missing there is done")
    parser.add_argument("--data", type=Path, help="a folder that `pack` made, or one of data sets")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rehearse", action="store_true", help="every stage on the CPU, with tiny sizes")
    given = parser.parse_args(arguments)
    names = given.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}: there are {', '.join(STAGES)}")
    if given.data is not None and not given.data.is_dir():
        parser.error(f"data folder {given.data} does not exist")
    if given.minutes <= 0:
        parser.error(f"minutes {given.minutes:g} must be positive")
    stages = {name: STAGES[name] for name in STAGES if name in names}
    device = "cpu" if given.rehearse else given.device
    return run(
        Options(
            given.out,
            given.minutes,
            stages,
            given.resume,
            given.data,
            device,
            given.rehearse,
            pack.provenance(given.data, arguments),
        )
    )


def pack_verb(arguments: Sequence[str]) -> int:
    """``pack FOLDER``."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu pack", description=pack.pack.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="where MNIST and CIFAR-10 are (default: $PAI_BENCH_DATA)")
    parser.add_argument("--resume", type=Path, help="results of an earlier run, to take along")
    parser.add_argument("--package", action="append", default=[], help="NAME==VERSION: a wheel that is missing there")
    given = parser.parse_args(arguments)
    try:
        print(pack.pack(given.folder, given.data, given.resume, given.package), end="")
    except pack.PackError as error:
        print(f"pack: {error}", file=sys.stderr)
        return 2
    return 0


def unpack_verb(arguments: Sequence[str]) -> int:
    """``unpack DIR RESULTS``."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu unpack", description=archive.unpack.__doc__)
    parser.add_argument("folder", type=Path, help="where the archives of a run are")
    parser.add_argument("results", type=Path, help="where a results folder for each stage goes")
    given = parser.parse_args(arguments)
    folders = archive.unpack(given.folder, given.results)
    for folder in folders:
        print(f"pai-bench report {folder} -o reports/gpu/{folder.name}.md")
    if not folders:
        print(f"unpack: no results in {given.folder}", file=sys.stderr)
    return 0 if folders else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
