"""The verb `prune`."""

import argparse
import dataclasses

from pai_bench.cli.console import make_console
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep
from pai_bench.support import outfile
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described


def prune(given: argparse.Namespace) -> int:
    """``pai-bench prune``."""
    from rich.table import Table
    from safetensors.torch import save

    from pai_bench.experiment import stages
    from pai_bench.experiment.resolve import resolve
    from pai_bench.experiment.runner import Runner
    from pai_bench.report import summary

    if given.seed < 0:
        raise UserError(f"seed {given.seed} must not be negative")
    targets = [outfile.check(given.output, "the mask")]
    if given.save_weights:
        targets.append(outfile.check(given.save_weights, "the file of weights"))
    if len(set(targets)) < len(targets):
        raise UserError(f"mask and weights cannot both be written to {given.output}: give --save-weights another file")
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS and key != "data"}
    axes = {
        "criteria": given.criterion,
        "models": given.model,
        "sparsities": given.sparsity,
        "data": given.data,
        "variants": given.variant,
    }
    catalog = resolve(Sweep(**axes, **flags, epochs=0))
    trial = dataclasses.replace(catalog.trials[1], seed=given.seed)
    runner = Runner(catalog)
    model = runner.inputs.model(trial)
    try:
        mask, cost = runner.probe.mask(trial, model)
    except Exception as error:
        raise UserError(f"{trial.criterion_name} failed on {trial.model}: {described(error)}") from error
    assert mask is not None
    assert cost is not None
    mask.save(given.output)
    if given.save_weights:
        # copies, since safetensors refuses tensors that share their memory
        weights = {name: tensor.cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
        outfile.write(given.save_weights, save(weights), "the file of weights")
    console = make_console()
    table = Table(title=f"{trial.method} on {trial.model}, sparsity {mask.sparsity:.4f}", title_justify="left")
    for column in ("layer", "weights", "kept", "density in %"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, kept in mask.kept_per_layer().items():
        size = mask[name].numel()
        table.add_row(name, f"{size:,}", f"{kept:,}", f"{100 * kept / size:.3g}", style=None if kept else "red")
    console.print(table)
    line = f"mask: {given.output}, {mask.kept:,} of {mask.size:,} connections, scored in {cost.seconds:.3g} s"
    console.print(line, markup=False)
    others = sum(parameter.numel() for parameter in model.parameters()) - mask.size
    console.print(f"not prunable: {summary.plural(others, 'other parameter')}")
    if (links := stages.connect(runner.inputs, trial, model, mask)) is not None:
        cut = "connected" if links.connected else f"disconnected, first in {links.first_cut}"
        dead = f"; dead: {', '.join(links.dead_layers)}" if links.connected and links.dead_layers else ""
        share = summary.share(links.effective_sparsity)
        console.print(f"{cut}; effective sparsity {share}{dead}", markup=False)
    if trial.variant is not None and trial.variant.redraws:
        console.print("variant reinit: the mask is the plain one; draw the weights again before training")
    return 0
