"""Files of tensors and metadata (safetensors), which hold no code: written whole or not at all, read with care."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor

from pai_bench.support import infile, outfile
from pai_bench.support.errors import UserError


def write(path: str | Path, tensors: Mapping[str, Tensor], what: str, texts: Mapping[str, str] | None = None) -> None:
    """Write `tensors` and `texts`, by name, to `path`; UserError, which calls the file `what`, if it cannot be done."""
    try:
        # copies, since safetensors refuses tensors that share their memory
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        content = save(copies, dict(texts or {}))
    # names that are not Unicode; sparse tensors; types that the format does not have
    except (ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"{what} cannot be written to {path} ({error})") from error
    outfile.write(path, content, what)


def read(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts in the file `path`; UserError, which calls it `what`, if it cannot be read."""
    try:
        infile.check(path)  # reading a pipe would block
        tensors = load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            return tensors, file.metadata() or {}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise unreadable(path, what, error) from error


def unreadable(path: str | Path, what: str, why: object) -> UserError:
    """The error that says why a file is not `what` it was taken for."""
    return UserError(f"no {what} can be read from {path}: {why}")
