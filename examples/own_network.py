"""Compare criteria on your own network and data. Run it with ``python examples/own_network.py``; it takes seconds.

The results are written to ``results/rings``. ``pai-bench report results/rings`` makes a report with figures.
"""

import torch
from torch import Tensor, nn

import pai_bench as pb


def rings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy points on three rings around the origin, and for each point the number of its ring."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randint(0, 3, (count,), generator=generator)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    radius = 1 + ring + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring


def two_hidden_layers(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build the network. The arguments are the shape of one example and the number of classes; the output is logits."""
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
