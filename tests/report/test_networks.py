"""Names of networks in tables of costs and searches, whose records do not say the shape of their data."""

import pytest

from pai_bench.report.networks import network_on


@pytest.mark.parametrize(
    ("model", "version", "data", "name"),
    [
        ("vgg-16-bn", 1, "cifar10", "vgg-16-bn on cifar10"),
        ("vgg-16-bn", 1, "tiny-imagenet", "vgg-16-bn (version 1) on tiny-imagenet"),
        ("vgg-16-bn", 2, "tiny-imagenet", "vgg-16-bn on tiny-imagenet"),
        ("resnet-20", 1, "mine", "resnet-20-identity on mine"),
    ],
)
def test_old_and_new_networks_stand_apart(model: str, version: int, data: str, name: str) -> None:
    changed = {} if version == 1 else {"model_version": version}
    assert network_on({"model": model, "data": data, **changed}) == name
