"""Which training examples a trial uses, and with which labels: functions of its settings and its seed."""

from torch import Tensor

from pai_bench.data import DataSet
from pai_bench.experiment.settings import TrainingSettings
from pai_bench.support.identity import stream


def fraction_of(settings: TrainingSettings) -> float:
    """The share of the training set that is used."""
    return 1.0 if settings.train_fraction is None else settings.train_fraction


def epoch_size(settings: TrainingSettings, data: DataSet) -> int:
    """By how many examples epochs, and the times of methods, are counted: those in use, or all of `data`."""
    return data.train_size(1.0 if settings.length == "steps" else fraction_of(settings))


def chosen_examples(data: DataSet, settings: TrainingSettings, seed: int) -> Tensor | None:
    """The training examples in use; None for all."""
    return data.chosen(fraction_of(settings), stream(seed, "fraction"), balanced=settings.subset == "balanced")


def with_noise(data: DataSet, settings: TrainingSettings, seed: int) -> DataSet:
    """`data` with the labels that are trained on; exact shares and permutations are of the examples in use."""
    if not settings.label_noise:
        return data
    counted = settings.label_noise == "permute" or settings.label_law == "exact"
    among = chosen_examples(data, settings, seed) if counted else None
    return data.noisy(settings.label_noise, stream(seed, "labels"), law=settings.label_law, among=among)


def labels_in_use(data: DataSet, settings: TrainingSettings, seed: int, *, noisy: bool) -> Tensor:
    """The labels of the examples in use: the true ones, or with `noisy` those that are trained on."""
    targets = (with_noise(data, settings, seed) if noisy else data).train.targets
    chosen = chosen_examples(data, settings, seed)
    return targets if chosen is None else targets[chosen]
