"""Layers that may be smaller than torch's own can be: of full size, they compute what torch's do."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from pai_bench.groups.shrunk_layers import SHRUNK, ShrunkAttention, shrunk_class

GENERATOR = torch.Generator().manual_seed(0)


def twin(layer: Any) -> Any:
    """A copy of a layer as a class that may be smaller."""
    other: Any = type(layer)(**layer.options)
    other.load_state_dict(layer.state_dict())
    other.__class__ = SHRUNK[type(layer)]
    other.resize()
    return other.train(layer.training)


def made(cls: Any, **options: Any) -> Any:
    """A layer in double precision and evaluation mode, which knows its options."""
    torch.manual_seed(0)
    layer = cls(**options, dtype=torch.float64).eval()
    layer.options = options | {"dtype": torch.float64}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=GENERATOR))
    return layer


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert isinstance(found, tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif expected is None:
        assert found is None
    else:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


FORBIDDEN = torch.ones(3, 5, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False, False, True, False, True], [True, False, False, False, False]])
CALLS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"attn_mask": FORBIDDEN},
    {"attn_mask": FORBIDDEN, "is_causal": True, "need_weights": False},
    {"attn_mask": FORBIDDEN.double(), "need_weights": False},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING.double(), "attn_mask": FORBIDDEN.double()},
]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 4, "vdim": 7}], ids=str)
def test_attention_is_that_of_torch(options: dict[str, Any], batch_first: bool, batched: bool) -> None:
    layer = made(nn.MultiheadAttention, embed_dim=6, num_heads=2, dropout=0.5, batch_first=batch_first, **options)
    inputs = [
        drawn(2, 3, 6),
        drawn(2, 5, layer.kdim),
        drawn(2, 5, layer.vdim),
    ]
    inputs = [t if batch_first else t.transpose(0, 1) for t in inputs] if batched else [t[0] for t in inputs]
    for call in CALLS:
        given = call
        if not batched and "key_padding_mask" in call:
            given = call | {"key_padding_mask": call["key_padding_mask"][0]}
        assert_same(twin(layer)(*inputs, **given), layer(*inputs, **given))


def test_causal_attention_needs_no_mask() -> None:
    layer = twin(made(nn.MultiheadAttention, embed_dim=6, num_heads=2, batch_first=True))
    x = drawn(2, 4, 6)
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    assert_same(layer(x, x, x, is_causal=True), layer(x, x, x, attn_mask=mask))


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_of_attention_is_that_of_training(need_weights: bool) -> None:
    layer = twin(made(nn.MultiheadAttention, embed_dim=6, num_heads=2, dropout=0.5).train())
    x = drawn(4, 2, 6)
    first, second = (layer(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_attention_to_more_than_the_tokens_cannot_be_smaller(options: dict[str, Any]) -> None:
    layer, x = made(nn.MultiheadAttention, embed_dim=6, num_heads=2, **options), drawn(4, 2, 6)
    layer.__class__ = ShrunkAttention
    with pytest.raises(NotImplementedError, match="bias_k or add_zero_attn"):
        layer(x, x, x)


def test_masks_of_single_heads_cannot_be_followed() -> None:
    layer, x = twin(made(nn.MultiheadAttention, embed_dim=6, num_heads=2)), drawn(4, 2, 6)
    with pytest.raises(NotImplementedError, match="for each head"):
        layer(x, x, x, attn_mask=torch.zeros(4, 4, 4, dtype=torch.bool))


CELLS = [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"})]


@pytest.mark.parametrize(("cls", "options"), CELLS)
def test_recurrent_layers_are_those_of_torch(cls: Any, options: dict[str, Any]) -> None:
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (False, True)):
        more = {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
        layer = made(cls, input_size=3, hidden_size=2, dropout=0.5 * (layers - 1), **more, **options)
        for x in (drawn(4, 5, 3), drawn(4, 3)):
            assert_same(twin(layer)(x), layer(x))


def test_dropout_between_recurrent_layers_is_that_of_training() -> None:
    x = drawn(4, 2, 3)
    for layers, same in ((1, True), (2, False)):
        torch.manual_seed(0)
        layer = made(nn.GRU, input_size=3, hidden_size=4, num_layers=layers)
        other = twin(layer).train()
        other.dropout = 0.5
        assert torch.equal(other(x)[0], other(x)[0]) is same


def test_first_states_and_packed_sequences_are_refused() -> None:
    layer = twin(made(nn.GRU, input_size=3, hidden_size=2))
    for given in ((drawn(4, 5, 3), drawn(1, 5, 2)), (pack_sequence([drawn(4, 3)]),)):
        with pytest.raises(NotImplementedError, match="first states or packed sequences"):
            layer(*given)


def test_layers_of_full_size_stay_what_they_are() -> None:
    attention = made(nn.MultiheadAttention, embed_dim=6, num_heads=2)
    recurrent = made(nn.LSTM, input_size=3, hidden_size=2, num_layers=2)
    assert shrunk_class(attention) is shrunk_class(recurrent) is None
    recurrent.weight_ih_l0 = nn.Parameter(recurrent.weight_ih_l0[:, :2])  # of an input of two features
    assert shrunk_class(recurrent) is SHRUNK[nn.LSTM]
    attention.out_proj.weight = nn.Parameter(attention.out_proj.weight[:, :3])  # of one head
    assert shrunk_class(attention) is ShrunkAttention
    assert shrunk_class(twin(made(nn.GRU, input_size=3, hidden_size=2))) is SHRUNK[nn.GRU]
