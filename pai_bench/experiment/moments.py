"""When the mask of a trial changes: before the first step of training, or after some steps of it."""

from pai_bench.experiment.stability import checks
from pai_bench.experiment.trial import Trial
from pai_bench.scoring import DuringTraining, Timeline
from pai_bench.support.errors import UserError


def timeline(trial: Trial, examples: int) -> Timeline:
    """The training of a trial on a training set of so many `examples`."""
    protocol, used = trial.protocol, max(1, examples)
    densities = () if trial.schedule is None else tuple(trial.schedule.densities(1 - trial.sparsity))
    return Timeline(protocol.steps(used), max(1, used // protocol.batch_size), protocol.budget, densities)


def moments(trial: Trial, examples: int) -> list[int]:
    """After how many steps its mask changes during training; UserError for what does not fit into the training."""
    if trial.prune_when == "stable" and trial.criterion is not None:
        if not (steps := timeline(trial, examples).steps):
            raise UserError("prune-when stable is for a network that is trained: training has no steps")
        return checks(steps)
    if trial.prunes_later:
        if not (step := timeline(trial, examples).step_of(trial.prune_at, "prune-at")):
            raise UserError(f"prune-at {trial.prune_at} is before training: leave it out")
        return [step]
    if isinstance(trial.criterion, DuringTraining) and trial.criterion.during:
        return trial.criterion.checked_moments(timeline(trial, examples))
    return []


def check_moments(trial: Trial, examples: int) -> None:
    """Raise UserError for a method, or a time to prune, that does not fit into the training or other settings."""
    moments(trial, examples)
    if not trial.changes_mask:
        return
    assert trial.criterion is not None
    given = f"prune-when {trial.prune_when}" if trial.prune_when == "stable" else f"prune-at {trial.prune_at}"
    if trial.prune_when == "stable" and trial.prune_at != "0":
        raise UserError(f"prune-at {trial.prune_at} and prune-when stable both say when to prune: give one")
    if trial.prunes_later and (trial.criterion.during or trial.criterion.begins_dense):
        raise UserError(f"{given} is for criteria that prune at once: {trial.criterion} has its own times")
    redraws = trial.variant is not None and trial.variant.redraws
    if trial.variant_name != "none" and (trial.criterion.during or redraws):
        what = f"{trial.criterion} prunes" if trial.criterion.during else f"{given} is"
        raise UserError(f"variant {trial.variant_name} is for pruning before training: {what} during it")
    policies = {"target": trial.target != "direct", "repair": trial.repair != "none"}
    for name in (name for name, is_given in policies.items() if is_given and trial.criterion.during):
        value = getattr(trial, name)
        raise UserError(f"{name} {value} is for all cuts at once: {trial.criterion} prunes during training")
