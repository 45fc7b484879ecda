"""The verb `prune`."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from pai_bench.cli.console import make_console, print_table
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep
from pai_bench.support import outfile
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described

if TYPE_CHECKING:
    from torch import nn

    from pai_bench.experiment.inputs import Inputs
    from pai_bench.experiment.trial import Trial
    from pai_bench.groups import GroupMask

MASK, SMALLER = "mask", "smaller network"
"""What the file that the verb writes holds."""


def prune(arguments: argparse.Namespace) -> int:
    """``pai-bench prune``."""
    from pai_bench.experiment import stages
    from pai_bench.experiment.resolve import resolve
    from pai_bench.experiment.runner import Runner
    from pai_bench.groups import GroupMask
    from pai_bench.report import summary
    from pai_bench.support import tensor_files

    output, weights_file = check(arguments)
    flags = {key: value for key, value in vars(arguments).items() if key in recipe.KEYS}
    catalog = resolve(Sweep(**flags, epochs=0))
    trial = dataclasses.replace(catalog.trials[1], seed=arguments.seed)
    if arguments.shrink and not trial.structured:
        what = f"{trial.criterion} removes single weights, which makes no tensor smaller"
        raise UserError(f"--shrink is for criteria of whole units, such as snap: {what}")
    runner = Runner(catalog)
    model = runner.inputs.model(trial)
    try:
        mask, cost = runner.probe.mask(trial, model)
    except UserError:  # says what is wrong
        raise
    except Exception as error:
        raise UserError(f"{trial.criterion_name} failed on {trial.model}: {described(error)}") from error
    assert mask is not None
    assert cost is not None
    lines = []
    if not arguments.shrink:
        mask.save(output)
    elif isinstance(mask, GroupMask):
        lines = save_smaller(runner.inputs, trial, model, mask, arguments.models, output)
    if weights_file:
        tensor_files.write(weights_file, model.state_dict(), "the file of weights")
    console = make_console()
    rows = [["layer", "weights", "kept", "density in %"]]
    for name, kept in mask.kept_per_layer().items():
        size = mask[name].numel()
        rows.append([name, f"{size:,}", f"{kept:,}", f"{100 * kept / size:.3g}"])
    title = f"{trial.method} on {trial.model}, sparsity {mask.sparsity:.4f}"
    print_table(console, rows, title=title, failed=lambda row: row[2] == "0")
    connections = f"{mask.kept:,} of {mask.size:,} connections, scored in {cost.seconds:.3g} s"
    console.print(f"{SMALLER if arguments.shrink else MASK}: {output}, {connections}")
    others = sum(parameter.numel() for parameter in model.parameters()) - mask.size
    console.print(f"not prunable: {summary.plural(others, 'other parameter')}")
    if (links := stages.connect(runner.inputs, trial, model, mask)) is not None:
        cut = "connected" if links.connected else f"disconnected, first in {links.first_cut}"
        dead = f"; dead: {', '.join(links.dead_layers)}" if links.connected and links.dead_layers else ""
        console.print(f"{cut}; effective sparsity {summary.share(links.effective_sparsity)}{dead}")
    if trial.variant is not None and trial.variant.redraws and not arguments.shrink:
        lines = ["variant reinit: the mask is the plain one; draw the weights again before training"]
    for line in lines:
        console.print(line)
    return 0


def check(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """The files to write: the mask or smaller network, and the weights; UserError for what cannot be written."""
    from pai_bench.scoring import get_criterion

    if (criterion := get_criterion(arguments.criteria)).begins_dense:
        raise UserError(f"{criterion} prunes during training: pai-bench run trains the network, too")
    if arguments.seed < 0:
        raise UserError(f"seed {arguments.seed} must not be negative")
    what = SMALLER if arguments.shrink else MASK
    output = arguments.output or ("small.safetensors" if arguments.shrink else "mask.safetensors")
    target = outfile.check(output, f"the {what}")
    if (weights := arguments.save_weights) and outfile.check(weights, "the file of weights") == target:
        raise UserError(f"{what} and weights cannot both be written to {output}: give --save-weights another file")
    return output, weights


def save_smaller(
    inputs: "Inputs", trial: "Trial", model: "nn.Module", mask: "GroupMask", name: str, output: str
) -> list[str]:
    """Write the network that a sweep would train, and say how it is read; `name` is the model's on the command line."""
    from pai_bench.experiment import stages
    from pai_bench.groups import save_shrunk
    from pai_bench.report import summary

    data, small = inputs.loaded(trial), stages.apply(inputs, trial, model, mask).model
    origin = {"model": trial.model.name, "input_shape": data.input_shape, "num_classes": data.num_classes}
    origin |= {"init": trial.init, "data": trial.data.name, "seed": trial.seed, "criterion": trial.method}
    origin |= {"sparsity": trial.sparsity, "sparsity_of": trial.sparsity_of}
    save_shrunk(small, mask, output, origin=origin)
    left, before = (sum(parameter.numel() for parameter in network.parameters()) for network in (small, model))
    made = f"{name!r}, input_shape={data.input_shape}, num_classes={data.num_classes}"
    return [
        f"{left:,} of {summary.plural(before, 'parameter')} are left; read the network in Python by",
        f"  pai_bench.load_shrunk({output!r}, pai_bench.create_model({made}))",
    ]
