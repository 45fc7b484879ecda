"""What formulas called before the model that they are given had methods: deprecated, see `pai_bench.pruning`."""

from typing import Any

from torch import Tensor, nn

from pai_bench.networks import layers
from pai_bench.scoring.batch import BatchLike, Scores
from pai_bench.scoring.masked_model import Elementwise, MaskedModel, Objective
from pai_bench.support.errors import UserError


def of_score(model: nn.Module) -> MaskedModel:
    """The model, if it is one that a formula was given."""
    if not isinstance(model, MaskedModel):
        given = type(model).__name__
        raise UserError(
            f"gradients are taken inside a criterion's score, on the network it is given, not on another {given}"
        )
    return model


def saliencies(model: nn.Module, batch: BatchLike, formula: Elementwise, *, of: Objective | None = None) -> Scores:
    """`MaskedModel.saliencies`."""
    return of_score(model).saliencies(batch, formula, of=of)


def hessian_saliencies(model: nn.Module, batch: BatchLike, formula: Elementwise, **options: Any) -> Scores:
    """`MaskedModel.hessian_saliencies`."""
    return of_score(model).hessian_saliencies(batch, formula, **options)


def loss_and_gradients(model: nn.Module, batch: BatchLike) -> tuple[Tensor, dict[str, Tensor]]:
    """`MaskedModel.loss_and_gradients`."""
    return of_score(model).loss_and_gradients(batch)


def gradients(model: nn.Module, batch: BatchLike) -> dict[str, Tensor]:
    """`MaskedModel.gradients`."""
    return of_score(model).gradients(batch)


def hessian_gradient_product(model: nn.Module, batch: BatchLike, *, temperature: float = 1.0) -> dict[str, Tensor]:
    """`MaskedModel.hessian_gradient_product`."""
    return of_score(model).hessian_gradient_product(batch, temperature=temperature)


def uniform_scores(model: nn.Module) -> Scores:
    """`MaskedModel.uniform`."""
    return of_score(model).uniform()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """`MaskedModel.weights`; of another network, copies of its prunable weights."""
    if isinstance(model, MaskedModel):
        return model.weights()
    return {name: weight.detach().clone() for name, weight in layers.prunable_parameters(model).items()}


def prunable_parameters(model: nn.Module, **options: Any) -> dict[str, nn.Parameter]:
    """`MaskedModel.prunable`; of another network, `pai_bench.scoring.prunable_parameters`."""
    return dict(model.prunable) if isinstance(model, MaskedModel) else layers.prunable_parameters(model, **options)
