"""The graph of a network's operations: which connections lie on a path, and what the operations cost."""

from pai_bench.graph.connectivity import Connections, Connectivity, LayerConnectivity, connectivity
from pai_bench.graph.flops import Flops, flops

__all__ = ["Connections", "Connectivity", "Flops", "LayerConnectivity", "connectivity", "flops"]
