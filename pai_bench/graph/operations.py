"""Operations of the ATen library by what they do, named without their overload."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F")


def registrar(rules: dict[str, F]) -> Callable[..., Callable[[F], F]]:
    """A decorator that registers a rule in `rules` for operations of the names that it is given."""

    def rule(*names: str) -> Callable[[F], F]:
        def register(function: F) -> F:
            rules.update(dict.fromkeys(names, function))
            return function

        return register

    return rule


DATA_DEPENDENT = frozenset(
    """
    _local_scalar_dense nonzero is_nonzero equal _unique _unique2 unique_dim unique_consecutive
    unique_dim_consecutive
    """.split()  # noqa: SIM905  # a list of a hundred strings is harder to read
)
"""Operations after which a network can do different things for different data."""

MOVES = frozenset(
    """
    cat stack clone copy _to_copy contiguous roll flip index index_select gather take constant_pad_nd reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d repeat _unsafe_view
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col tril triu where masked_fill
    masked_scatter masked_select slice_scatter select_scatter diagonal_scatter as_strided_scatter index_copy
    index_fill _unsafe_index index_put _index_put_impl _unsafe_index_put put scatter unsafe_split
    unsafe_split_with_sizes unsafe_chunk repeat_interleave rot90 diag_embed _pack_padded_sequence _pad_packed_sequence
    fill zero _reshape_copy
    """.split()  # noqa: SIM905  # a list of a hundred strings is harder to read
)
"""Operations that put elements elsewhere and add zeros or constants."""

SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"})
"""Operations whose results are the pieces, one after the other, of what they take."""

SUMMING_MOVES = frozenset({"col2im", "index_add", "scatter_add"})
"""Operations that put elements elsewhere, several of them in one place."""

REDUCING_MOVES = frozenset({"scatter", "scatter_reduce", "index_reduce"})
"""Those that may combine, by a `reduce` of one's choice, what they put in one place with what is there."""

CHOICES = frozenset({"where", "masked_fill"})
"""Moves that choose between two values, element by element."""

PACKED = frozenset({"_pack_padded_sequence", "_pad_packed_sequence"})
"""Moves between padded and packed sequences, whose second result is lengths."""

SUMS = frozenset({"add", "sub"})
"""Functions of single elements that are zero where all of their arguments are, and seldom elsewhere."""

ELEMENTWISE = frozenset(
    """
    hardswish leaky_relu log_sigmoid log_sigmoid_forward prelu _prelu_kernel rrelu_with_noise dropout complex
    """.split()  # noqa: SIM905  # a list of a hundred strings is harder to read
)
"""Functions of single elements that torch does not tag as such, in one of its versions at least."""

CONSTANTS = frozenset(
    """
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty
    new_full new_empty_strided bernoulli _assert_async _assert_tensor_metadata sym_size
    """.split()  # noqa: SIM905  # a list of a hundred strings is harder to read
)
"""Operations whose results do not depend on the elements of their arguments."""

REDUCTIONS = frozenset(
    """
    sum mean amax amin max min prod logsumexp norm linalg_vector_norm var std var_mean std_mean any all argmax argmin
    median nanmedian mode kthvalue nansum
    """.split()  # noqa: SIM905  # a list of a hundred strings is harder to read
)
"""Operations whose results depend on all that they are taken over."""
