"""Initialisations of whole networks."""

from torch import nn

WEIGHTED = (nn.Linear, nn.Conv2d)


def glorot(model: nn.Module) -> nn.Module:
    """Weights normal with variance 2 / (fan in + fan out) (Glorot & Bengio 2010), biases zero."""
    for module in model.modules():
        if isinstance(module, WEIGHTED):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def kaiming(model: nn.Module) -> nn.Module:
    """Weights normal with variance 2 / fan in (He et al. 2015), biases zero; batch norm stays at 1 and 0."""
    for module in model.modules():
        if isinstance(module, WEIGHTED):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
