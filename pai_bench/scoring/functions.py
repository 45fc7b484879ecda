"""Deprecated functions for formulas, now methods of `MaskedModel`; imported by way of `pai_bench.pruning`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pai_bench.networks import layers
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.support.errors import UserError


def of_score(model: nn.Module) -> MaskedModel:
    """The model, if it is a `MaskedModel`."""
    if not isinstance(model, MaskedModel):
        name = type(model).__name__
        raise UserError(
            f"gradients are taken inside a criterion's score, on the network it is given, not on another {name}"
        )
    return model


def _method(name: str) -> Callable[..., Any]:
    """A function that calls the method `name` of the model."""

    def call(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        return getattr(of_score(model), name)(*arguments, **options)

    return call


saliencies, hessian_saliencies = _method("saliencies"), _method("hessian_saliencies")
gradients, loss_and_gradients = _method("gradients"), _method("loss_and_gradients")
hessian_gradient_product, uniform_scores = _method("hessian_gradient_product"), _method("uniform")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """`MaskedModel.weights`; of another network, copies of its prunable weights."""
    if isinstance(model, MaskedModel):
        return model.weights()
    return {name: weight.detach().clone() for name, weight in layers.prunable_parameters(model).items()}


def prunable_parameters(model: nn.Module, **options: Any) -> dict[str, nn.Parameter]:
    """`MaskedModel.prunable`; of another network, `pai_bench.scoring.prunable_parameters`."""
    return dict(model.prunable) if isinstance(model, MaskedModel) else layers.prunable_parameters(model, **options)
