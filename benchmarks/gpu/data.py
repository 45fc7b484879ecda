"""The data that a run reads: a folder of data sets, or one that `pack` made."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MNIST = Path("MNIST", "raw")
CIFAR10 = "cifar10-images.tar.gz"
PARTS = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]

VARIABLE = "PAI_BENCH_DATA"
DECODE = "import pai_bench; pai_bench.load_data('cifar10')"


@contextmanager
def data_folder(given: Path | None) -> Iterator[dict[str, str]]:
    """What to add to the environment of processes that read data from the folder `given`.

    Files of MNIST that `pack` has compressed are unpacked into a folder of their own, which is removed at the end.
    """
    if given is None:
        yield {}
    elif not any((given / MNIST).glob("*.gz")):
        yield {VARIABLE: str(given.resolve())}
    else:
        with TemporaryDirectory(prefix="pai-bench-data-") as name:
            folder = Path(name)
            (folder / MNIST).mkdir(parents=True)
            for path in (given / MNIST).glob("*.gz"):
                with gzip.open(path) as packed, (folder / MNIST / path.stem).open("wb") as file:
                    shutil.copyfileobj(packed, file)
            if (given / CIFAR10).exists():
                (folder / CIFAR10).symlink_to((given / CIFAR10).resolve())
            yield {VARIABLE: name}


@contextmanager
def decoding(environment: dict[str, str], *, wanted: bool) -> Iterator[None]:
    """A block beside which CIFAR-10 is decoded into the user's cache, so that no stage has to wait for it."""
    if not wanted:
        yield
        return
    path = os.pathsep.join(part or os.getcwd() for part in sys.path if isinstance(part, str))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", DECODE],
        stdout=subprocess.DEVNULL,  # a stage that needs the images says what is wrong with them
        stderr=subprocess.DEVNULL,
        env=os.environ | environment | {"PYTHONPATH": path},
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
