"""Where trials run: in this process, or in worker processes of this machine."""

from pai_bench.execution.sweep import Listener, run, run_again, run_catalog, run_catalogs

__all__ = ["Listener", "run", "run_again", "run_catalog", "run_catalogs"]
