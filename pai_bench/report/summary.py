"""From rows of trials to the cells of a comparison: means and standard deviations over seeds."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, names, unusual, words
from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, plugin_facts
from pai_bench.report.statistics import PERCENT, Estimate, estimate

SHARED = ["data", "model", "protocol", *names(TrainingSettings)]
"""What trials must share to stand in one table."""

WORDS = {"schedule": "{}".format, **words(ScoringSettings), "revision": "revision {:g}".format}
"""What may tell apart two uses of one criterion, and how it is written."""


@dataclass(frozen=True)
class Cell:
    """The trials of one method at one sparsity: test accuracies over seeds, in [0, 1]."""

    accuracies: tuple[float, ...]
    failed: int = 0
    with_dead_layers: int = 0
    disconnected: int = 0
    untrained: int = 0
    """Connected networks whose last training loss is that of chance."""
    collapsed: int = 0
    """Networks that are disconnected or at chance."""
    effective_sparsity: float = math.nan
    """Mean over seeds."""

    identities: tuple[str, ...] = ()
    """Of all trials, by seed."""

    @property
    def at_chance(self) -> bool:
        """Whether half or more of the networks did not train."""
        return mostly(self.untrained, len(self.accuracies))

    @property
    def percent(self) -> Estimate:
        """Mean over seeds, with deviation and interval, in per cent."""
        return estimate([100 * accuracy for accuracy in self.accuracies], PERCENT)

    def __str__(self) -> str:
        """Per cent, as ``mean ± standard deviation``, and the effective sparsity.

        A dagger marks a dead layer, a double dagger a disconnected network, a section sign one that did not train.
        """
        if not self.accuracies:
            return "failed" if self.failed else "–"
        found = self.percent
        spread = f" ± {found.deviation:.2f}" if found.count > 1 else ""
        marks = " ‡" if self.disconnected else " †" if self.with_dead_layers else ""
        marks += " §" * (self.untrained > 0)
        effective = "" if pd.isna(self.effective_sparsity) else f" [{share(self.effective_sparsity)}]"
        failed = f" ({self.failed} failed)" * (self.failed > 0)
        return f"{found.mean:.2f}{spread}{effective}{marks}{failed}"


def mostly(untrained: int, networks: int) -> bool:
    """Whether so many `untrained` ones are half of the `networks` or more."""
    return 2 * untrained >= networks > 0


def share(sparsity: float) -> str:
    """A sparsity with three digits of its density, so that 0.99 and 0.999 can be told apart."""
    if (density := round(1 - sparsity, 12)) in (0, 1):  # 1 - 0.9 is a little less than a tenth
        return f"{1 - density:g}"
    return f"{sparsity:.{max(3, 2 - math.floor(math.log10(density)))}f}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(TrainingSettings):
    """All methods on one network, data set and protocol. `cells` lacks what was not run."""

    data: str
    model: str
    protocol: str
    protocol_parts: tuple[str, ...]
    """What the protocol consists of, in words."""
    batch_size: int
    dense: Cell
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    cells: dict[tuple[str, float], Cell]
    rows: pd.DataFrame
    train_fraction: float = 1.0
    apart: str = ""
    """What tells it from another one of the same network and data."""

    @property
    def title(self) -> str:
        """Network and data in a few words."""
        return ", ".join([f"{self.model} on {self.data}", *unusual(self, TrainingSettings)]) + self.apart

    @cached_property
    def facts(self) -> plugin_facts.ComparisonFacts:
        """What is known of its criteria and its data set; goes with it to another process once it was looked up."""
        pruned = self.rows.criterion[self.rows.criterion != DENSE]
        data, facts = plugin_facts.data_set(self.data)
        return plugin_facts.ComparisonFacts(
            plugin_facts.criteria(pruned.unique()), data, facts.classes if facts else math.nan
        )

    @property
    def special(self) -> tuple[bool, bool, int]:
        """How far it is from the usual setting, and then how much it lacks: the least first, where one is chosen."""
        return bool(self.validation), self.init != "own", -len(self.cells)

    @property
    def resolution(self) -> float:
        """What one example of the test set counts, in points."""
        return resolution(self.rows)

    @property
    def trained(self) -> bool:
        """Whether any network was trained; else accuracies say nothing."""
        return bool((self.rows.epochs != 0).any())

    def not_compared(self, method: str, sparsity: float) -> bool:
        """Whether half or more of the networks of a cell did not train. Of random labels that is a finding."""
        return not self.label_noise and self.cells.get((method, sparsity), Cell(())).at_chance

    @property
    def seeds(self) -> int:
        """Number of seeds, of those cells that have most."""
        return max(len(cell.accuracies) + cell.failed for cell in (self.dense, *self.cells.values()))


def resolution(rows: pd.DataFrame) -> float:
    """What one example of the test set counts, in points of accuracy; 0 if accuracies are no counts of examples."""
    examples = float(rows.test_examples.min())
    right = examples * outcomes.numbers(rows, "test_accuracy")
    right = right[~np.isnan(right)]
    return 100 / examples if examples and np.allclose(right, np.round(right), rtol=0, atol=0.01) else 0.0


def comparisons(rows: pd.DataFrame) -> list[Comparison]:
    """The comparisons in `rows` (as of `read_results`), in order of first appearance."""
    found = list(by_setting(rows))
    same = [[other.protocol_parts for other in found if other.title == one.title] for one in found]
    return [dataclasses.replace(one, apart=telling(one, rivals)) for one, rivals in zip(found, same, strict=True)]


def telling(one: Comparison, protocols: Sequence[Sequence[str]]) -> str:
    """The parts of a comparison's protocol that not all of the `protocols` share."""
    return "".join(f", {part}" for part in one.protocol_parts if not all(part in protocol for protocol in protocols))


def by_setting(rows: pd.DataFrame) -> Iterator[Comparison]:
    """One comparison after the other."""
    for _, group in rows.groupby(SHARED, sort=False):
        chances = {"chance_loss": outcomes.chance_losses(group), "chance_accuracy": outcomes.chance_accuracies(group)}
        group = group.assign(method=method_labels(group), **chances)
        dense, pruned = (group[(group.criterion == DENSE) == flag] for flag in (True, False))
        first, reference = group.iloc[0], cells(dense).get((DENSE, 0.0), Cell(()))
        yield Comparison(
            data=first.data,
            model=first.model,
            protocol=first.protocol,
            protocol_parts=rows.attrs["protocols"][first.protocol],
            batch_size=int(first.batch_size),
            dense=dataclasses.replace(reference, effective_sparsity=math.nan),  # nothing was removed
            methods=in_order(pruned),
            sparsities=tuple(sorted(pruned.sparsity.unique())),
            cells=cells(pruned),
            rows=group,
            **{name: first[name] for name in names(TrainingSettings)},
        )


def in_order(rows: pd.DataFrame) -> tuple[str, ...]:
    """The methods in `rows`: criteria as they come, the uses of each by name."""
    criteria = list(rows.criterion.unique())
    pairs = {(criteria.index(c), str(m)) for c, m in zip(rows.criterion, rows.method, strict=True)}
    return tuple(method for _, method in sorted(pairs))


def cells(rows: pd.DataFrame) -> dict[tuple[str, float], Cell]:
    """The cells of some trials, by method and sparsity."""
    identities, accuracies = rows.identity.to_numpy(), rows.test_accuracy.to_numpy(float)
    failed, effective = (rows.status == "failed").to_numpy(), rows.effective_sparsity.to_numpy(float)
    dead, cut = rows.dead_layers.map(bool).to_numpy(), outcomes.disconnected(rows)
    untrained, collapsed = outcomes.untrained(rows), outcomes.collapsed(rows)
    found = {}
    for method, sparsity, places in by_cell(rows):
        done = places[~failed[places]]
        known = effective[done][~np.isnan(effective[done])]
        found[method, sparsity] = Cell(
            accuracies=tuple(accuracies[done].tolist()),
            failed=len(places) - len(done),
            with_dead_layers=int(dead[done].sum()),
            disconnected=int(cut[done].sum()),
            untrained=int(untrained[done].sum()),
            collapsed=int(collapsed[done].sum()),
            effective_sparsity=float(known.mean()) if len(known) else math.nan,
            identities=tuple(identities[places]),
        )
    return found


def by_cell(rows: pd.DataFrame) -> Iterator[tuple[str, float, NDArray[np.intp]]]:
    """Method, sparsity, and the places in `rows` of the trials that have both, by seed; in order of appearance."""
    seeds, methods, sparsities = (rows[name].to_numpy() for name in ("seed", "method", "sparsity"))
    numbers = rows.groupby(["method", "sparsity"], sort=False).ngroup().to_numpy()
    for number in range(numbers.max(initial=-1) + 1):
        places = np.flatnonzero(numbers == number)
        yield (
            str(methods[places[0]]),
            float(sparsities[places[0]]),
            places[np.argsort(seeds[places], kind="stable")],
        )


def method_labels(rows: pd.DataFrame) -> "pd.Series[str]":
    """The criterion of each row, with what else tells its uses apart, but only where it was used in several ways."""
    labels = rows.criterion.copy()
    varied = rows.variant != "none"
    labels[varied] += " + " + rows.variant[varied]
    for _, group in rows.groupby(["criterion", "variant"], sort=False):
        for name, written in WORDS.items():
            if group[name].nunique() > 1:
                labels[group.index] += ", " + group[name].map(written)
    return labels


def plural(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
