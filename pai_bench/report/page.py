"""The markdown report of a results folder."""

import json
import re
from collections import Counter
from pathlib import Path

from pai_bench.errors import UserError
from pai_bench.report import collapse, costs, figures, tables
from pai_bench.report.summary import Comparison, comparisons, plural
from pai_bench.store import Collapse, Cost, Layer, Record, Store, as_frame


def write_report(store: Store, path: Path, *, x: str = "direct") -> Path:
    """Write the report of everything in `store` to `path`, its figures into ``figures/`` beside it.

    The figures' axis `x` is the ``direct`` sparsity or the ``effective`` one.
    """
    records, measured, collapses = list(store), store.read_costs(), store.read_collapses()
    if not records and not measured and not collapses:
        raise UserError(f"results folder {store.path} has no readable results")
    path = path / "report.md" if path.is_dir() else path
    if store.trials.resolve() in path.resolve().parents:
        raise UserError(f"the report cannot be written to {path}, where the results are")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = page(records, path, measured, collapses, x)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the report cannot be written to {path} ({error.strerror or error})") from error
    return path


def page(records: list[Record], path: Path, measured: list[Cost], collapses: list[Collapse], x: str = "direct") -> str:
    """The text of the report; draws its figures on the way."""
    rows = as_frame(sorted(records, key=lambda record: record.identity))
    parts = ["# Pruning at initialisation: a comparison", summary(records)]
    if not records:
        parts = ["# Pruning at initialisation: " + ("what it costs" if measured else "where networks fall apart")]
    names: Counter[str] = Counter()

    def figure_for(title: str) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{path.stem}-{title}".lower()).strip("-")[:100]
        names[slug] += 1
        return Path("figures") / f"{slug}{f'-{names[slug]}' if names[slug] > 1 else ''}.svg"

    for comparison in comparisons(rows) if records else ():
        parts += section(comparison, records, path.parent, figure_for(comparison.title), x)
    failed = [record for record in records if record.status == "failed"]
    if failed:
        parts += [
            "## Failed trials",
            tables.markdown([["trial", "error"], *([r.identity, r.error or ""] for r in failed)]),
        ]
    if measured:
        parts += costs.section(measured, path.parent, figure_for)
    if collapses:
        parts += collapse.section(collapses, path.parent, figure_for)
    parts += ["## How these numbers were made", provenance(records, measured, collapses)]
    return "\n\n".join(parts) + "\n"


def summary(records: list[Record]) -> str:
    """What the report holds, in a few sentences."""
    status = Counter(record.status for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
    return (
        f"{plural(len(records), 'trial')} ({counts}). Accuracies are of the last epoch on the test set, in per cent, "
        "mean ± sample standard deviation over seeds. For one seed, all criteria and sparsities share initial weights, "
        "score batch and order of training batches. Sparsity is the share of prunable weights removed; effective "
        "sparsity, in brackets, that of weights which are removed or lie on no path from the input to the output. A "
        "network without any path is not trained, unless asked for: its accuracy is that of its constant output."
    )


def section(comparison: Comparison, records: list[Record], folder: Path, figure: Path, x: str) -> list[str]:
    """The part of the report about one network on one data set; draws `figure`, a path below `folder`."""
    parts = [
        f"## {comparison.title}",
        f"Protocol: {comparison.protocol}. {plural(comparison.seeds, 'seed')}. Score time: median after a warm-up.",
        tables.markdown(tables.accuracy(comparison)),
    ]
    if cuts := tables.disconnections(comparison):
        parts.append("\n".join(f"* {line}" for line in cuts))
    modes = comparison.rows.groupby("method", sort=False).batch_norm.first().dropna()
    if modes.nunique() > 1:
        listed = ", ".join(f"{method} {mode}" for method, mode in modes.items())
        parts.append(
            f"Batch norm while scoring is not in one mode: {listed}. `--bn train` or `--bn eval` sets one for all."
        )
    if comparison.cells:
        figures.accuracy(comparison, folder / figure, x)
        parts.append(f"![Test accuracy against sparsity, {comparison.title}]({figure.as_posix()})")
    parts += ["### Cost", tables.markdown(tables.cost(comparison))]
    if comparison.cells:
        densities = layer_densities(comparison, records)
        title = "Density of each layer in per cent, kept and effective"
        parts.append(f"<details><summary>{title}</summary>\n\n{densities}\n\n</details>")
    return parts


def layer_densities(comparison: Comparison, records: list[Record]) -> str:
    """Per sparsity, a table of layers by criterion: shares kept and effective, means over seeds, in per cent."""
    by_identity = {record.identity: record for record in records}
    parts = []
    for sparsity in comparison.sparsities:
        columns: dict[str, dict[str, str]] = {}
        sizes: dict[str, int] = {}
        for method in comparison.methods:
            chosen = comparison.rows[(comparison.rows.method == method) & (comparison.rows.sparsity == sparsity)]
            masks = [by_identity[i].layers for i in chosen.identity if by_identity[i].layers]
            if masks:
                layers = [layer for mask in masks for layer in mask]
                sizes = {layer.name: layer.size for layer in layers}
                columns[method] = {
                    name: shares(same) for name in sizes if (same := [layer for layer in layers if layer.name == name])
                }
        head = ["layer", "weights", *columns]
        body = [
            [name, f"{size:,}", *(column.get(name, "") for column in columns.values())] for name, size in sizes.items()
        ]
        if body:
            parts.append(f"Sparsity {sparsity:.10g}:\n\n{tables.markdown([head, *body])}")
    return "\n\n".join(parts)


def shares(layers: list[Layer]) -> str:
    """The share of a layer that is kept, and that is effective where that is another, over seeds, in per cent."""
    size, kept = sum(layer.size for layer in layers), sum(layer.kept for layer in layers)
    effective = sum(layer.kept if layer.effective is None else layer.effective for layer in layers)
    return f"{100 * kept / size:.3g}" + (f" / {100 * effective / size:.3g}" if effective != kept else "")


def provenance(records: list[Record], measured: list[Cost], collapses: list[Collapse]) -> str:
    """Commands, data, versions and machines, as the records hold them."""
    lines = []
    for title, values in (
        ("Timing command", [cost.provenance.get("command") for cost in measured]),
        ("Timing environment", [describe_environment(cost) for cost in measured]),
        ("Timing commit", [describe_commit(cost) for cost in measured]),
        ("Collapse command", [one.provenance.get("command") for one in collapses]),
        ("Collapse environment", [describe_environment(one) for one in collapses]),
        ("Collapse commit", [describe_commit(one) for one in collapses]),
        ("Command", [record.provenance.get("command") for record in records]),
        ("Data", [describe_data(record) for record in records]),
        ("Criterion", [describe_criterion(record) for record in records]),
        ("Company", [describe_company(record) for record in records]),
        ("Environment", [describe_environment(record) for record in records]),
        ("Commit", [describe_commit(record) for record in records]),
    ):
        for value, count in sorted(Counter(v for v in values if v).items()):
            lines.append(
                f"* {title}: {value} ({plural(count, 'row' if title.startswith(('Timing', 'Collapse')) else 'trial')})"
            )
    return "\n".join(lines)


def describe_data(record: Record) -> str:
    """Data set, sizes and checksum."""
    data = record.provenance["data"]
    return (
        f"{data['label']}, {data['train']:,} training and {data['test']:,} test examples, checksum {data['checksum']}"
    )


def describe_criterion(record: Record) -> str | None:
    """A criterion with all its options, schedule and score batch."""
    criterion = record.trial["criterion"]
    if criterion is None:
        return None
    options = ", ".join(f"{key} {json.dumps(value)}" for key, value in criterion["options"])
    batch = f"{record.trial['score_batch']} {record.trial['score_sampling']} examples"
    if (batches := record.trial.get("score_batches", 1)) > 1:
        batch = f"{batches} x {batch}"
    variant = f", {record.trial['variant']}" if "variant" in record.trial else ""
    for key in ("target", "min_per_layer", "repair"):
        variant += f", {key.replace('_', ' ')} {record.trial[key]}" if key in record.trial else ""
    scope = f"{criterion['schedule']}, {record.trial['scope']}{variant}"
    return f"{criterion['name']}: {scope}, score batch {batch}; {options}"


def describe_environment(record: Record | Cost | Collapse) -> str:
    """Versions, processor, threads and device."""
    environment = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    machine = f"{environment['processor']}, {environment['threads']} threads, {environment['system']}"
    return f"{environment['device']}; {machine}; {versions}"


def describe_company(record: Record) -> str | None:
    """What ran beside a trial, which its times depend on."""
    workers, lanes = (record.provenance.get(key, 1) for key in ("workers", "lanes"))
    parts = [f"one of {workers} worker processes"] if workers > 1 else []
    parts += [f"trained in one program with {plural(lanes - 1, 'other')}"] if lanes > 1 else []
    parts += ["compiled"] if record.provenance.get("compiled") else []
    return ", ".join(parts) or None


def describe_commit(record: Record | Cost | Collapse) -> str | None:
    """The commit that made the record, if it was made from a checkout."""
    if not (commit := record.provenance.get("commit")):
        return None
    return f"{commit}, with changes that were not committed" if record.provenance.get("dirty") else commit
