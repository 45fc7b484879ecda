"""Comparisons: the trials of one setting, in a cell for each method and sparsity."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator
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
"""Columns that the trials of one comparison share."""

WORDS = {"schedule": "{}".format, **words(ScoringSettings), "revision": "revision {:g}".format}
"""Settings in which two uses of one criterion may differ, and how they are written."""


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
    def seeds(self) -> int:
        """Number of seeds that were run, failed ones too."""
        return len(self.accuracies) + self.failed

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
        mean = self.percent
        spread = f" ± {mean.deviation:.2f}" if mean.count > 1 else ""
        marks = " ‡" if self.disconnected else " †" if self.with_dead_layers else ""
        marks += " §" * (self.untrained > 0)
        effective = "" if pd.isna(self.effective_sparsity) else f" [{share(self.effective_sparsity)}]"
        failed = f" ({self.failed} failed)" * (self.failed > 0)
        return f"{mean.mean:.2f}{spread}{effective}{marks}{failed}"


def mostly(untrained: int, networks: int) -> bool:
    """Whether half or more of the `networks` are `untrained`."""
    return 2 * untrained >= networks > 0


def share(sparsity: float) -> str:
    """A sparsity with as many decimals as give its density three digits, so that 0.99 and 0.999 differ."""
    if (density := round(1 - sparsity, 12)) in (0, 1):  # 1 - 0.9 is a little less than a tenth
        return f"{1 - density:g}"
    return f"{sparsity:.{max(3, 2 - math.floor(math.log10(density)))}f}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(TrainingSettings):
    """All methods on one network, data set and protocol, by (method, sparsity); `cells` lacks what was not run."""

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
    sparsity_of: str = "weights"
    """What all sparsities are shares of."""
    suffix: str = ""
    """Where another comparison has the same title: the parts of the protocol that differ."""

    @property
    def title(self) -> str:
        """Network, data and unusual settings."""
        counted = [] if self.sparsity_of == "weights" else [WORDS["sparsity_of"](self.sparsity_of)]
        return ", ".join([f"{self.model} on {self.data}", *unusual(self, TrainingSettings), *counted]) + self.suffix

    @cached_property
    def facts(self) -> plugin_facts.ComparisonFacts:
        """The facts about its criteria and data set; once looked up, they are pickled with it."""
        pruned = self.rows.criterion[self.rows.criterion != DENSE]
        data, facts = plugin_facts.data_set(self.data)
        return plugin_facts.ComparisonFacts(
            plugin_facts.criteria(pruned.unique()), data, facts.classes if facts else math.nan
        )

    @property
    def special(self) -> tuple[bool, bool, int]:
        """A sort key: the usual settings first, and of these, the most cells."""
        return bool(self.validation), self.init != "own", -len(self.cells)

    @property
    def resolution(self) -> float:
        """What one example of the test set counts, in points."""
        return resolution(self.rows)

    @property
    def random_labels(self) -> bool:
        """Whether all training labels are random, so that only how well they are fitted can be compared."""
        return self.label_noise in (1, "permute")

    @property
    def trained(self) -> bool:
        """Whether any network was trained."""
        return bool((self.rows.epochs != 0).any())

    def cell(self, method: str, sparsity: float) -> Cell:
        """A cell, empty where nothing was run; that of the dense reference at any sparsity."""
        return self.dense if method == DENSE else self.cells.get((method, sparsity), Cell(()))

    def not_compared(self, method: str, sparsity: float) -> bool:
        """Whether half or more of the networks of a cell did not train. With random labels that is a finding."""
        return not self.label_noise and self.cell(method, sparsity).at_chance

    @property
    def seeds(self) -> int:
        """The largest number of seeds of a cell."""
        return max(cell.seeds for cell in (self.dense, *self.cells.values()))


def resolution(rows: pd.DataFrame) -> float:
    """What one example of the test set counts, in points: 100 / examples; 0 if accuracies are no counts of examples."""
    examples = float(rows.test_examples.min())
    correct = examples * outcomes.numbers(rows, "test_accuracy")
    correct = correct[~np.isnan(correct)]
    return 100 / examples if examples and np.allclose(correct, np.round(correct), rtol=0, atol=0.01) else 0.0


def comparisons(rows: pd.DataFrame) -> list[Comparison]:
    """The comparisons in `rows` (as of `read_results`), in order of first appearance."""
    parts = rows.attrs["protocols"]
    settings = [
        comparison(group, parts[group.protocol.iloc[0]])
        for _, shared in rows.groupby(SHARED, sort=False)
        for group in by_counted(shared)
    ]
    protocols: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for one in settings:
        protocols[one.title].append(one.protocol_parts)
    suffixes = [
        "".join(f", {part}" for part in one.protocol_parts if not all(part in other for other in protocols[one.title]))
        for one in settings
    ]
    return [dataclasses.replace(one, suffix=suffix) for one, suffix in zip(settings, suffixes, strict=True)]


def by_counted(group: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The trials of one setting whose sparsities are shares of the same: weights, nodes or flops; dense ones in each.

    The same sparsity of weights and of nodes are different requests, which no table or test may join.
    """
    dense = group.criterion == DENSE
    for unit in group.sparsity_of[~dense].unique() if not dense.all() else [None]:
        yield without_levels(group[dense | (group.sparsity_of == unit)])


def without_levels(group: pd.DataFrame) -> pd.DataFrame:
    """Trials without those of iterative pruning that are only on the way: at sparsities that no other method has.

    The highest of such a method was asked for, and stays. Where there is no other method, all are shown.
    """
    iterative = group.criterion.isin(group.criterion[group.trainings.notna()])
    asked = group.sparsity[~iterative & (group.criterion != DENSE)].unique()
    highest = group.groupby("criterion").sparsity.transform("max")
    last = (group.sparsity == highest) & (group.sparsity > asked.max(initial=0.0))
    return group if not len(asked) else group[~iterative | group.sparsity.isin(asked) | last]


def comparison(group: pd.DataFrame, protocol_parts: tuple[str, ...]) -> Comparison:
    """The comparison of the trials of one setting."""
    chances = {"chance_loss": outcomes.chance_losses(group), "chance_accuracy": outcomes.chance_accuracies(group)}
    group = group.assign(method=method_labels(group), **chances)
    dense, pruned = (group[(group.criterion == DENSE) == flag] for flag in (True, False))
    first, reference = group.iloc[0], cells(dense).get((DENSE, 0.0), Cell(()))
    return Comparison(
        data=first.data,
        model=first.model,
        protocol=first.protocol,
        protocol_parts=protocol_parts,
        batch_size=int(first.batch_size),
        dense=dataclasses.replace(reference, effective_sparsity=math.nan),  # nothing was removed
        methods=in_order(pruned),
        sparsities=tuple(sorted(pruned.sparsity.unique())),
        cells=cells(pruned),
        rows=group,
        sparsity_of=next(iter(pruned.sparsity_of), "weights"),
        **{name: first[name] for name in names(TrainingSettings)},
    )


def in_order(rows: pd.DataFrame) -> tuple[str, ...]:
    """The methods in `rows`: criteria in order of appearance, the uses of each by name."""
    uses = rows.groupby("criterion", sort=False).method.unique()
    return tuple(str(method) for methods in uses for method in sorted(methods))


def cells(rows: pd.DataFrame) -> dict[tuple[str, float], Cell]:
    """The cells of some trials, by method and sparsity."""
    identities, accuracies = rows.identity.to_numpy(), rows.test_accuracy.to_numpy(float)
    failed, effective = (rows.status == "failed").to_numpy(), rows.effective_sparsity.to_numpy(float)
    dead, cut = rows.dead_layers.map(bool).to_numpy(), outcomes.disconnected(rows)
    untrained, collapsed = outcomes.untrained(rows), outcomes.collapsed(rows)
    by_place = {}
    for method, sparsity, places in by_cell(rows):
        done = places[~failed[places]]
        known = effective[done][~np.isnan(effective[done])]
        by_place[method, sparsity] = Cell(
            accuracies=tuple(accuracies[done].tolist()),
            failed=len(places) - len(done),
            with_dead_layers=int(dead[done].sum()),
            disconnected=int(cut[done].sum()),
            untrained=int(untrained[done].sum()),
            collapsed=int(collapsed[done].sum()),
            effective_sparsity=float(known.mean()) if len(known) else math.nan,
            identities=tuple(identities[places]),
        )
    return by_place


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
    """The criterion of each row, with the settings in which its uses differ, if it was used in several ways."""
    labels = rows.criterion.copy()
    varied = rows.variant != "none"
    labels[varied] += " + " + rows.variant[varied]
    for _, group in rows.groupby(["criterion", "variant"]):
        for name, written in WORDS.items():
            if group[name].nunique() > 1:
                labels[group.index] += ", " + group[name].map(written)
    return labels


def plural(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless the number is 1."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
