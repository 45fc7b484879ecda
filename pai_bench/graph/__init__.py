"""The graph of a network's operations: what they are, what they compute, and which connections lie on a path."""

from pai_bench.graph.connectivity import Connections, Connectivity, LayerConnectivity, connectivity
from pai_bench.graph.flops import Flops, flops

__all__ = ["Connections", "Connectivity", "Flops", "LayerConnectivity", "connectivity", "flops"]
