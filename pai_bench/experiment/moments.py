"""When the mask of a trial changes: before the first step of training, or after some steps of it."""

from pai_bench.experiment.trial import Trial
from pai_bench.scoring import DuringTraining, Timeline
from pai_bench.support import spec
from pai_bench.support.errors import UserError


def timeline(trial: Trial, examples: int) -> Timeline:
    """The training of a trial on a training set of so many `examples`."""
    protocol, used = trial.protocol, max(1, examples)
    densities = () if trial.schedule is None else tuple(trial.schedule.densities(1 - trial.sparsity))
    return Timeline(protocol.steps(used), max(1, used // protocol.batch_size), protocol.budget, densities)


def moments(trial: Trial, examples: int) -> list[int]:
    """After how many steps its mask changes during training; UserError for what does not fit into the training."""
    if trial.prune_at != "0":
        return [pruning_step(trial.prune_at, timeline(trial, examples))]
    if isinstance(trial.criterion, DuringTraining) and trial.criterion.during:
        return trial.criterion.checked_moments(timeline(trial, examples))
    return []


def check_moments(trial: Trial, examples: int) -> None:
    """Raise UserError for a method, or a time to prune, that does not fit into the training or other settings."""
    moments(trial, examples)
    if not trial.changes_mask:
        return
    assert trial.criterion is not None
    if trial.prune_at != "0" and trial.criterion.during:
        raise UserError(
            f"prune-at {trial.prune_at} is for criteria that prune once: {trial.criterion} has its own times"
        )
    redraws = trial.variant is not None and trial.variant.redraws
    if trial.variant_name != "none" and (trial.criterion.during or redraws):
        what = f"{trial.criterion} prunes" if trial.criterion.during else f"prune-at {trial.prune_at} is"
        raise UserError(f"variant {trial.variant_name} is for pruning before training: {what} during it")
    policies = {"target": trial.target != "direct", "repair": trial.repair != "none"}
    for name in (name for name, is_given in policies.items() if is_given and trial.criterion.during):
        value = getattr(trial, name)
        raise UserError(f"{name} {value} is for all cuts at once: {trial.criterion} prunes during training")


def pruning_step(when: str, training: Timeline) -> int:
    """The number of steps that ``500`` or ``2%`` stands for, in 1..steps."""
    if when.endswith("%"):
        share: float = spec.convert(when.removesuffix("%"), float, "prune-at") / 100
        if not 0 < share <= 1:
            raise UserError(f"prune-at {when} is outside (0, 100%]: it is a share of the steps of training")
        return max(1, round(share * training.steps))
    published: int = spec.convert(when, int, "prune-at")
    step = training.after(published)
    if published < 1 or step > training.steps:
        raise UserError(f"prune-at {when} is not within the {training.steps:,} steps of training")
    return step
