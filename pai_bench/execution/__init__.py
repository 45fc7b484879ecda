"""Where trials run: in this process, in worker processes, on a Ray cluster, or in a backend of one's own."""

from pai_bench.execution.autotune import choose
from pai_bench.execution.backend import Backend, Callbacks
from pai_bench.execution.catalog_run import run_again
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.in_process import InProcess
from pai_bench.execution.listener import Listener
from pai_bench.execution.processes import Processes
from pai_bench.execution.ray_backend import RayCluster
from pai_bench.execution.sweep import run, run_catalog, run_catalogs

__all__ = ["Backend", "Callbacks", "ExecutionPlan", "InProcess", "Listener", "Processes", "RayCluster", "choose"]
__all__ += ["run", "run_again", "run_catalog", "run_catalogs"]
