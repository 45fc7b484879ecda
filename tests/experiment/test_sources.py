"""What a trial's data and network are made from: named, not compared by it, and light to carry."""

import pickle

import torch

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.experiment.sources import DataSource, ModelSource


def test_sources_of_one_name_are_one_wherever_they_come_from() -> None:
    split = Split(torch.zeros(4, 3), torch.arange(4) % 2)
    own = DataSource("own", pb.DataSet("own", split, split), None, 0.0, "ab")
    other = DataSource("own", "./data.py:own", "/data", 0.0, "cd")
    assert own == other
    assert hash(own) == hash(other)
    assert own != DataSource("own", "own", None, 0.1)
    assert repr(own) == "DataSource(name='own', validation=0.0)"
    assert pickle.loads(pickle.dumps(own)).reference is None  # no trial takes data with it
    assert pickle.loads(pickle.dumps(other)).reference == "./data.py:own"
    one = ModelSource("net", "net")
    assert one == ModelSource("net", "./nets.py:net")
    assert str(one) == "net"
    assert one == ModelSource("net", "net", unclear=("scale",), builder=lambda *_: torch.nn.Identity())
    assert one != ModelSource("net", "net", version=2)
    assert one != ModelSource("net", "net", traced=("scale",))
    assert repr(one) == "ModelSource(name='net', version=1, traced=(), unclear=())"
