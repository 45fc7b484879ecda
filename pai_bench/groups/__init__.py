"""Groups of slices that structured pruning removes together, and networks that are really smaller without them."""

from pai_bench.graph.ties import Axis
from pai_bench.groups.combined import CombinedMask
from pai_bench.groups.files import load_shrunk, save_shrunk
from pai_bench.groups.find import find_groups
from pai_bench.groups.groups import GroupMask, Groups
from pai_bench.groups.shrink import shrink

__all__ = ["Axis", "CombinedMask", "GroupMask", "Groups", "find_groups", "load_shrunk", "save_shrunk", "shrink"]
