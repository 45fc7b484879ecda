"""Compare criteria on a network and data of your own: ``python examples/own_network.py``, in a few seconds.

The results are written to ``results/rings``; ``pai-bench report results/rings`` makes a report with figures of them.
"""

import torch
from torch import Tensor, nn

import pai_bench as pb


def rings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points on three rings around the origin, with noise, and the ring that each is on."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randint(0, 3, (count,), generator=generator)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    radius = 1 + ring + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring


def two_hidden_layers(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Any function of the shape of an example and the number of classes that builds a network of logits."""
    (features,) = input_shape
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_classes))


if __name__ == "__main__":
    data = pb.DataSet("rings", train=rings(3000, seed=0), test=rings(1000, seed=1))
    sweep = pb.Sweep(
        criteria=["snip", "synflow", "random"],
        models=[two_hidden_layers],
        data=[data],
        sparsities=[0.5, 0.9],
        seeds=3,
        epochs=5,
    )
    results = pb.run(sweep, out="results/rings")
    print(results.groupby(["criterion", "sparsity"]).test_accuracy.agg(["mean", "std", "count"]))
