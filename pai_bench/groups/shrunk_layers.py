"""Torch's recurrent and attention layers, where fewer hidden units or heads are left than torch's own can have."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShrunkAttention(nn.MultiheadAttention):
    """Attention with fewer heads, each as large as before, so that they no longer fill the features."""

    def resize(self) -> None:
        """Let the number of heads follow the parameters."""
        self._qkv_same_embed_dim = False  # torch's fused kernels assume that heads fill the features
        self.num_heads = self.out_proj.weight.shape[1] // self.head_dim
        self.embed_dim, self.out_proj.in_features = self.out_proj.weight.shape
        self.out_proj.out_features = self.embed_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention as by `torch.nn.MultiheadAttention`."""
        if self.bias_k is not None or self.add_zero_attn:
            raise NotImplementedError("attention with bias_k or add_zero_attn cannot have fewer heads")
        batched = query.dim() == 3
        parts = [t if batched else t.unsqueeze(0 if self.batch_first else 1) for t in (query, key, value)]
        if not self.batch_first:
            parts = [t.transpose(0, 1) for t in parts]
        q, k, v = (self.heads(t, *p) for t, p in zip(parts, self.projections(), strict=True))
        mask = self.additive(attn_mask, key_padding_mask, q, k, is_causal=is_causal and attn_mask is None)
        weights: Tensor | None = None
        if need_weights:
            scores = q @ k.mT / self.head_dim**0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(weights, self.dropout, self.training) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        result: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        result = result if self.batch_first else result.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if batched:
            return result, weights
        return result.squeeze(0 if self.batch_first else 1), None if weights is None else weights.squeeze(0)

    def projections(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias for queries, keys and values."""
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.in_proj_weight is not None:
            return list(zip(self.in_proj_weight.chunk(3), biases, strict=True))
        return list(zip((self.q_proj_weight, self.k_proj_weight, self.v_proj_weight), biases, strict=True))

    def heads(self, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Projected tokens (N, length, features) as (N, heads, length, size of a head)."""
        projected = F.linear(tokens, weight, bias)
        return projected.view(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    @staticmethod
    def additive(
        attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor, *, is_causal: bool
    ) -> Tensor | None:
        """What is added to the scores: minus infinity where attention is forbidden."""

        def added(mask: Tensor) -> Tensor:
            if mask.dtype is torch.bool:
                return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -torch.inf)
            return mask.to(q.dtype)

        total = None
        if is_causal:
            total = added(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1))
        if attn_mask is not None:
            if attn_mask.dim() != 2:
                raise NotImplementedError("a mask of attention for each head names heads that may be removed")
            total = added(attn_mask)
        if padding is not None:
            keys = added(padding).view(-1, 1, 1, k.shape[2])
            total = keys if total is None else total + keys
        return total


class ShrunkRecurrent:
    """A recurrent layer whose layers and directions may have different numbers of hidden units."""

    def resize(self: Any) -> None:
        """Let the sizes follow the parameters."""
        self.input_size = self.get_parameter("weight_ih_l0").shape[1]
        self.sizes = [getattr(self, f"weight_hh_{suffix}").shape[1] for suffix in self.suffixes()]
        self.hidden_size = self.sizes[0]

    def suffixes(self: Any) -> list[str]:
        """The endings of the parameters' names, of each direction of each layer."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:  # torch's own name
        """All layers and directions, one after the other, from states of zeros."""
        if hx is not None or not isinstance(input, Tensor):
            raise NotImplementedError("a recurrent layer with first states or packed sequences cannot be shrunk")
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        x = x.transpose(0, 1) if self.batch_first else x
        functions: dict[str, Any] = {
            "LSTM": torch.lstm,
            "GRU": torch.gru,
            "RNN_TANH": torch.rnn_tanh,
            "RNN_RELU": torch.rnn_relu,
        }
        run, step, states = functions[self.mode], 2 if self.bidirectional else 1, []
        for layer in range(self.num_layers):
            outputs = []
            for i, suffix in enumerate(self.suffixes()[step * layer : step * (layer + 1)]):
                names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ())]
                weights = [getattr(self, f"{name}_{suffix}") for name in names]
                zeros = x.new_zeros(1, x.shape[1], weights[1].shape[1])
                start: Any = (zeros, zeros) if self.mode == "LSTM" else zeros
                out, *last = run(x.flip(0) if i else x, start, weights, self.bias, 1, 0.0, self.training, False, False)
                outputs.append(out.flip(0) if i else out)
                states.append(last)
            x = torch.cat(outputs, -1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        x = x.transpose(0, 1) if self.batch_first else x
        equal = len(set(self.sizes)) == 1
        last = [torch.cat(parts) if equal else None for parts in zip(*states, strict=True)]
        if not batched:
            x = x.squeeze(0 if self.batch_first else 1)
            last = [None if state is None else state.squeeze(1) for state in last]
        return x, tuple(last) if self.mode == "LSTM" else last[0]


class ShrunkLSTM(ShrunkRecurrent, nn.LSTM):  # type: ignore[misc]  # without first states
    """An LSTM whose layers and directions may have different numbers of hidden units."""


class ShrunkGRU(ShrunkRecurrent, nn.GRU):  # type: ignore[misc]  # without first states
    """A GRU whose layers and directions may have different numbers of hidden units."""


class ShrunkRNN(ShrunkRecurrent, nn.RNN):  # type: ignore[misc]  # without first states
    """A plain recurrent layer whose layers and directions may have different numbers of hidden units."""


SHRUNK: dict[type[nn.Module], Any] = {
    nn.MultiheadAttention: ShrunkAttention,
    nn.LSTM: ShrunkLSTM,
    nn.GRU: ShrunkGRU,
    nn.RNN: ShrunkRNN,
}


def shrunk_class(module: nn.Module) -> Any:
    """The class that a recurrent or attention layer needs after its parameters have become smaller; None if its own.

    Of a subclass of one of torch's, a subclass of both.
    """
    cls = type(module)
    if issubclass(cls, (ShrunkAttention, ShrunkRecurrent)):
        return cls
    if isinstance(module, nn.MultiheadAttention):
        size = module.embed_dim
        inputs = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
        fits = module.out_proj.weight.shape == (size, size) and inputs.shape[1] == size
    else:
        assert isinstance(module, nn.RNNBase)
        sizes = {p.shape[1] for name, p in module.named_parameters() if name.startswith("weight_hh")}
        fits = sizes == {module.hidden_size} and module.get_parameter("weight_ih_l0").shape[1] == module.input_size
    base = next((base for base in SHRUNK if isinstance(module, base)), None)
    if fits or base is None:
        return None
    return SHRUNK[base] if cls is base else shrunk_subclass(cls)


def shrunk_subclass(cls: type[nn.Module]) -> Any:
    """The class of smaller layers of a subclass of one of torch's."""
    base = next(base for base in SHRUNK if issubclass(cls, base))

    def reduced(module: Any, _protocol: Any) -> Any:  # pickle cannot find the class by its name
        return empty, (cls,), module.__getstate__()

    return type(f"Shrunk{cls.__name__}", (cls, SHRUNK[base]), {"__reduce_ex__": reduced})


def empty(cls: type[nn.Module]) -> nn.Module:
    """A smaller layer of a subclass, without its attributes."""
    smaller = shrunk_subclass(cls)
    module: nn.Module = smaller.__new__(smaller)
    return module
