"""Where plug-ins have imported their decorators from: ``from pai_bench import criterion`` takes its place."""

import warnings

from pai_bench.support.registry import criterion, data_set, model

__all__ = ["criterion", "data_set", "model"]

warnings.warn("import from pai_bench, not from pai_bench.registry", DeprecationWarning, stacklevel=2)
