"""Which network a stored result is of, where it does not say the shape of its data."""

from collections.abc import Mapping
from typing import Any

from pai_bench.experiment.settings import completed
from pai_bench.report import known
from pai_bench.support.networks import name_of


def network_on(trial: Mapping[str, Any]) -> str:
    """The network and the data of a configuration."""
    _, facts = known.data_set(trial["data"])
    name = name_of(trial["model"], completed(trial)["model_version"], facts.shape if facts else None)
    return f"{name} on {trial['data']}"
