"""The masks and the initial weights of stored trials."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, completed, names
from pai_bench.experiment.stages import mask_maker
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask
from pai_bench.results import Record, Store
from pai_bench.results.bits import SAMPLE_SIZE, count_differences
from pai_bench.results.stored_masks import size_of, stored_bits
from pai_bench.support.errors import UserError, reason
from pai_bench.support.networks import NAMES_OF_VERSION_1
from pai_bench.training.protocol import Protocol

Stored = str | Path
"""The file of a trial's record (``results/trials/NAME.json``), or a results folder, together with the trial's name."""


def read_mask(record: Stored | Record, identity: str | None = None) -> Mask:
    """The mask of a stored trial, its layers in the model's order; of the dense reference, one that removes nothing.

    `record` is the file of a trial's record, or a results folder and `identity` the trial's, as `read_results` has it;
    or a `Record`, of a network whose mask is in there. Records of networks of more than 524,288 weights that were
    written before whole masks were stored beside them hold a sample: `remake_mask` prunes again.
    """
    record, store = find_record(record, identity)
    layers = record.pruning.layers
    if record.trial["criterion"] is not None and record.pruning.mask is None:
        what = record.status if record.status == "failed" else "one of a file of records, which has no masks"
        raise UserError(f"trial {record.identity} has no mask: it is {what}")
    try:
        if len({layer.name for layer in layers}) < len(layers) or not layers:
            raise ValueError("its layers are not known")
        for layer in layers:
            if not layer.fits_shape():
                raise ValueError(f"the {layer.size:,} weights of {layer.name} have the shape {layer.shape}")
        if record.trial["criterion"] is None:  # one value for all places, however large a layer is said to be
            return Mask({layer.name: torch.ones((), dtype=torch.bool).expand(layer.shape) for layer in layers})
        if (bits := stored_bits(record, store)) is not None:
            if {name: int(keep.sum()) for name, keep in bits.items()} != {layer.name: layer.kept for layer in layers}:
                raise ValueError("it keeps other numbers of connections than the record says")
            return Mask({name: torch.from_numpy(keep) for name, keep in bits.items()})
    except (ValueError, OSError) as error:
        raise UserError(f"the mask of trial {record.identity} cannot be read: {error}") from error
    raise UserError(
        f"the record of {record.identity} holds a sample of {SAMPLE_SIZE:,} of its {size_of(record):,} places, and no "
        "whole mask lies beside it: pai_bench.remake_mask(record) prunes again, and holds the mask to the sample"
    )


def remake_mask(
    record: Stored | Record, identity: str | None = None, *, data_dir: Stored | None = None, device: str = "cpu"
) -> Mask:
    """The mask of a stored trial, computed again, and compared with what its record has of it.

    `record` and `identity` are as for `read_mask`. Networks, data and criteria must have names; `data_dir` is where the
    data are. A mask that differs from the record's is a `UserError`: another version of torch, or another device, adds
    up in another order.
    """
    record, _ = find_record(record, identity)
    if record.trial["criterion"] is None or record.pruning.mask is None:
        return read_mask(record)
    trial, runner = trial_of(record, data_dir, device)
    if trial.changes_mask:
        raise UserError(f"the mask of trial {record.identity} changed during training: only a new run makes it again")
    assert trial.schedule is not None
    mask = mask_maker(runner.inputs, trial, runner.inputs.model(trial))(trial.schedule)
    sizes = {layer.name: layer.size for layer in record.pruning.layers}
    if {name: keep.numel() for name, keep in mask.items()} != sizes:
        raise UserError(f"the network of trial {record.identity} has other layers than its record")
    if differ := count_differences(record.pruning.mask, {name: keep.cpu().numpy() for name, keep in mask.items()}):
        whole, torch_version = min(SAMPLE_SIZE, sum(sizes.values())), record.environment.versions.get("torch", "?")
        raise UserError(
            f"the mask made again differs from that of trial {record.identity} in {differ:,} of {whole:,} places: it "
            f"was made with torch {torch_version} on {record.environment.device}"
        )
    return mask.to("cpu")


def initial_weights(
    model: Any, data: Any, *, seed: int = 0, init: str = "own", data_dir: Stored | None = None
) -> dict[str, Tensor]:
    """The weights and buffers, by name, that the network called `model` begins with on `data` in trials of a `seed`.

    They are those that `pai-bench run` trains and `pai-bench prune --seed` scores, for ``load_state_dict``.
    """
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")
    options: dict[str, Any] = {"device": "cpu", "data_dir": data_dir, "epochs": 0}
    sweep = Sweep(models=[model], data=[data], criteria=["random"], init=init, **options)
    catalog = resolve(sweep)
    built = Runner(catalog).inputs.model(dataclasses.replace(catalog.trials[0], seed=seed))
    return {name: tensor.detach().clone() for name, tensor in built.state_dict().items()}


def find_record(record: Stored | Record, identity: str | None) -> tuple[Record, Store | None]:
    """A record, and the results folder that it is in."""
    if isinstance(record, Record):
        return record, None
    path = Path(record)
    if identity is None:
        try:
            path = path.resolve()
        except (OSError, ValueError) as error:
            raise UserError(f"the record {record!r} cannot be read ({reason(error)})") from error
        if path.suffix != ".json" or path.parent.name != "trials":
            what = "is not the file of a trial (trials/NAME.json): give that, or the folder and a name"
            raise UserError(f"{path} {what}")
        path, identity = path.parent.parent, path.stem
    store = Store(path)
    return store.get(identity), store


def trial_of(record: Record, data_dir: Stored | None, device: str) -> tuple[Trial, Runner]:
    """The trial that a record is of, and what runs it."""
    stored = completed(record.trial)
    criterion, version = stored["criterion"], stored["model_version"]
    settings = {name: stored[name] for name in (*names(ScoringSettings), *names(TrainingSettings))}
    sweep = Sweep(
        **settings | {"scope": None if stored["scope"] == "quota" else stored["scope"], "data_dir": data_dir},
        criteria=[criterion["name"]],
        models=[stored["model"] if version != 1 else NAMES_OF_VERSION_1.get(stored["model"], stored["model"])],
        data=[stored["data"]],
        sparsities=[stored["sparsity"]],
        seeds=[stored["seed"]],
        variants=[stored["variant"]],
        schedule=criterion["schedule"],
        epochs=0,
        device=device,
    )
    try:
        catalog = resolve(sweep)
    except UserError as error:
        what = "what is made again must have a name here: no function, class or folder of one's own"
        raise UserError(f"trial {record.identity} cannot be made again: {error} ({what})") from error
    trial = dataclasses.replace(catalog.trials[1], protocol=Protocol.of(stored["protocol"]))
    if record.identity not in (trial.identity, trial.former and trial.former.identity):
        raise UserError(
            f"trial {record.identity} cannot be made again: what it names is no longer the same (now {trial.identity})"
        )
    return trial, Runner(catalog)
