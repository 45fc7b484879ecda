"""The verb `prune`."""

import argparse
import dataclasses

from pai_bench.cli.console import make_console, print_table
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep
from pai_bench.support import outfile
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described


def prune(arguments: argparse.Namespace) -> int:
    """``pai-bench prune``."""
    from safetensors.torch import save

    from pai_bench.experiment import stages
    from pai_bench.experiment.resolve import resolve
    from pai_bench.experiment.runner import Runner
    from pai_bench.report import summary

    if arguments.seed < 0:
        raise UserError(f"seed {arguments.seed} must not be negative")
    output, weights_file = arguments.output, arguments.save_weights
    target = outfile.check(output, "the mask")
    if weights_file and outfile.check(weights_file, "the file of weights") == target:
        raise UserError(f"mask and weights cannot both be written to {output}: give --save-weights another file")
    flags = {key: value for key, value in vars(arguments).items() if key in recipe.KEYS}
    catalog = resolve(Sweep(**flags, epochs=0))
    trial = dataclasses.replace(catalog.trials[1], seed=arguments.seed)
    runner = Runner(catalog)
    model = runner.inputs.model(trial)
    try:
        mask, cost = runner.probe.mask(trial, model)
    except Exception as error:
        raise UserError(f"{trial.criterion_name} failed on {trial.model}: {described(error)}") from error
    assert mask is not None
    assert cost is not None
    mask.save(output)
    if weights_file:
        # copies, since safetensors refuses tensors that share their memory
        weights = {name: tensor.cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
        outfile.write(weights_file, save(weights), "the file of weights")
    console = make_console()
    rows = [["layer", "weights", "kept", "density in %"]]
    for name, kept in mask.kept_per_layer().items():
        size = mask[name].numel()
        rows.append([name, f"{size:,}", f"{kept:,}", f"{100 * kept / size:.3g}"])
    title = f"{trial.method} on {trial.model}, sparsity {mask.sparsity:.4f}"
    print_table(console, rows, title=title, failed=lambda row: row[2] == "0")
    connections = f"{mask.kept:,} of {mask.size:,} connections, scored in {cost.seconds:.3g} s"
    console.print(f"mask: {output}, {connections}")
    others = sum(parameter.numel() for parameter in model.parameters()) - mask.size
    console.print(f"not prunable: {summary.plural(others, 'other parameter')}")
    if (links := stages.connect(runner.inputs, trial, model, mask)) is not None:
        cut = "connected" if links.connected else f"disconnected, first in {links.first_cut}"
        dead = f"; dead: {', '.join(links.dead_layers)}" if links.connected and links.dead_layers else ""
        console.print(f"{cut}; effective sparsity {summary.share(links.effective_sparsity)}{dead}")
    if trial.variant is not None and trial.variant.redraws:
        console.print("variant reinit: the mask is the plain one; draw the weights again before training")
    return 0
