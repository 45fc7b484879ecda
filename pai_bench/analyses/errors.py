"""The error of a check that has failed."""

from pai_bench.support.errors import UserError


class CheckError(UserError):
    """A criterion does not do what the harness relies on, or what it declares."""
