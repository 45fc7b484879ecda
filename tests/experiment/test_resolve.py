"""From the names of a sweep to objects, trials and mistakes."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.experiment.resolve import Inspection, resolve
from pai_bench.experiment.runner import Runner
from pai_bench.masks import Halving
from pai_bench.scoring import MaskedModel
from pai_bench.scoring.lookup import load_class


def test_identities_of_real_trials_are_pinned() -> None:
    """Options that a later version adds to criteria must not move these: see tests/experiment/test_sweep.py."""
    sweep = pb.Sweep(criteria=["snip", "grasp", "synflow"], sparsities=[0.95], seeds=1, protocol="short")
    assert [trial.identity for trial in resolve(sweep).trials] == PINNED


def test_aliases_resolve_and_count_as_duplicates() -> None:
    trials = resolve(pb.Sweep(models=["lenet"], seeds=1)).trials
    assert {trial.model.name for trial in trials} == {"lenet-5-caffe"}
    with pytest.raises(pb.UserError, match="models: lenet-5-caffe is given twice"):
        resolve(pb.Sweep(models=["lenet", "lenet-5-caffe"]))
    with pytest.raises(pb.UserError, match="criteria: snip-it is given twice"):
        resolve(pb.Sweep(criteria=["snip-it", "snip_it"]))


def test_one_batch_norm_mode_for_all_that_use_data() -> None:
    catalog = resolve(pb.Sweep(criteria=["snip", "grasp", "random"], bn="train", seeds=1))
    names = dict.fromkeys(trial.criterion_name for trial in catalog.trials)
    assert list(names) == [
        "dense",
        "snip:bn=train",
        "grasp",
        "random",
    ]


def test_networks_with_batch_norm_train_for_fewer_epochs_by_default() -> None:
    trials = resolve(pb.Sweep(models=["lenet", "resnet-20"], seeds=1)).trials
    assert {trial.model.name: trial.protocol.name for trial in trials} == {
        "lenet-5-caffe": "short-adam",
        "resnet-20": "short-adam-bn",
    }


def test_own_objects() -> None:
    @dataclass(frozen=True)
    class Mine(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return model.weights()

    def tiny(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Linear(shape[0], classes)

    split = Split(torch.randn(40, 3), torch.arange(40) % 2)
    data = pb.DataSet("mine", split, split)
    catalog = resolve(pb.Sweep(criteria=[Mine()], models=[tiny], data=[data], batch_size=10, seeds=1))
    trial = catalog.trials[1]
    assert (trial.criterion_name, trial.model.name, trial.data.name, trial.score_batch) == ("Mine", "tiny", "mine", 20)
    with pytest.raises(pb.UserError, match="not as a lambda"):
        resolve(pb.Sweep(models=[lambda shape, classes: tiny(shape, classes)], data=[data]))


def test_a_criterion_from_a_file_is_known_by_its_text() -> None:
    text = '''
from dataclasses import dataclass
from pai_bench.scoring import Criterion, MaskedModel

@dataclass(frozen=True)
class Mine(Criterion):
    """score = power of w."""
    power: int = 2
    def score(self, model, batch):
        return {name: weight ** self.power for name, weight in model.weights().items()}
'''
    identities = []
    for version in (text, text.replace("int = 2", "int = 3"), text + "# of something else\n"):
        Path("mine.py").write_text(version)
        load_class.cache_clear()  # as in a new process
        trial = resolve(pb.Sweep(criteria=["./mine.py:Mine:power=4"], seeds=1)).trials[1]
        assert trial.criterion_name.startswith("Mine@")
        assert trial.criterion_name.endswith(":power=4")
        identities.append(trial.identity)
    assert identities[0] == identities[2] != identities[1]
    with pytest.raises(pb.UserError, match=r"unknown criterion class in mine.py 'Mein': did you mean Mine"):
        resolve(pb.Sweep(criteria=["./mine.py:Mein"]))
    Path("unfinished.py").write_text(
        "from dataclasses import dataclass\nfrom pai_bench.scoring import Criterion\n"
        "class Abstract(Criterion): pass\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Required(Criterion):\n"
        "    alpha: float\n    def score(self, model, batch): return {}\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Breaks(Criterion):\n"
        "    def __post_init__(self): {}['nothing']\n    def score(self, model, batch): return {}\n"
    )
    for name, message in (("Abstract", "abstract"), ("Required", "alpha"), ("Breaks", "KeyError: 'nothing'")):
        with pytest.raises(pb.UserError, match=f"{name}.*{message}"):
            resolve(pb.Sweep(criteria=[f"./unfinished.py:{name}"]))
    Path("broken.py").write_text("1/0")
    with pytest.raises(pb.UserError, match=r"broken.py does not load: ZeroDivisionError"):
        resolve(pb.Sweep(criteria=["./broken.py:Mine"]))


def linear(_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


def test_trials_are_small_and_the_same_in_another_process(tmp_path: Path) -> None:
    Path("mine.py").write_text(
        "from dataclasses import dataclass\nfrom pai_bench.scoring import Criterion\n"
        "@dataclass(frozen=True)\nclass Mine(Criterion):\n    power: int = 2\n"
        "    def score(self, model, batch): return model.weights()\n"
    )
    split = Split(torch.randn(2000, 1, 28, 28), torch.arange(2000) % 10)
    own = pb.DataSet("own", split, split)
    keys: dict[str, Any] = {"criteria": ["grasp:temperature=1", "./mine.py:Mine:power=3"], "models": [linear]}
    catalog = resolve(pb.Sweep(data=["digits", own], variants=["none", "quota:erk"], sparsities=[0.5], seeds=1, **keys))
    assert len(catalog.trials) == 2 * 5
    for trial in catalog.trials:
        text = pickle.dumps(trial)
        assert len(text) < 10_000
        again = pickle.loads(text)
        assert (again, again.configuration()) == (trial, trial.configuration())
        if trial.data.name == "digits":
            assert again.data.load().checksum == catalog.data["digits"].checksum
        else:
            with pytest.raises(pb.UserError, match="own is an object of another process"):
                again.data.load()


EDITED = """
from dataclasses import dataclass
from torch import nn
from pai_bench.scoring import Criterion

def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Linear(16, classes))

@dataclass(frozen=True, kw_only=True)
class Mine(Criterion):
    power: int = 2

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "power", 2 * self.power)

    def score(self, model, batch):
        return model.weights()
"""


def test_what_a_file_was_when_it_was_named_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("edited.py").write_text(EDITED)
    catalog = resolve(pb.Sweep(models=["./edited.py:net"], criteria=["./edited.py:Mine"], sparsities=[0.5], seeds=1))
    trial, text = catalog.trials[1], pickle.dumps(catalog.trials[1])
    assert pickle.loads(text) == trial
    assert pickle.loads(text).criterion.power == 4
    Path("edited.py").write_text(EDITED.replace("16", "9").replace("power: int = 2", "power: int = 3"))
    assert Runner(catalog).inputs.model(trial)[1].out_features == 16  # type: ignore[index]
    monkeypatch.chdir("/")
    with pytest.raises(pb.UserError, match=r"model net@\w+ is another one by now, net@\w+: its file has changed"):
        pickle.loads(pickle.dumps(trial.model)).load_builder()
    load_class.cache_clear()
    with pytest.raises(pb.UserError, match=r"criterion Mine@\w+ is another one by now"):
        pickle.loads(text)


def wrong_classes(_shape: tuple[int, ...], _classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))


def wrong_inputs(_shape: tuple[int, ...], _classes: int) -> nn.Module:
    return nn.Linear(3, 10)


def parametrised(_shape: tuple[int, ...], _classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(784, 10)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"criteria": ["snipp"]}, "unknown criterion 'snipp': did you mean snip"),
        ({"models": ["vggg"]}, "unknown model 'vggg': did you mean vgg"),
        ({"models": ["torchvision:resnet19"]}, "unknown torchvision classifier 'resnet19': did you mean resnet1"),
        ({"data": ["digit"]}, "unknown data set 'digit': did you mean digits"),
        ({"criteria": ["grasp:temprature=1"]}, "unknown option of grasp 'temprature': did you mean temperature"),
        ({"schedule": "linaer"}, "unknown schedule 'linaer': did you mean linear"),
        ({"protocol": "shrot"}, "unknown protocol 'shrot': did you mean short"),
        ({"device": "gpu"}, "device 'gpu' is not one of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there: this machine has"),
        ({"data_dir": "nowhere"}, "data directory nowhere does not exist"),
        ({"batch_size": 2000}, "batch size 2000 is larger than the 1347 training examples of digits"),
        ({"batch_size": 300, "train_fraction": 0.2}, "batch size 300 is larger than the 269 training examples"),
        ({"score_batch": 2000}, "score-batch 2000 is larger than the 1347 training examples of digits"),
        (
            {"score_sampling": "class-3", "score_batch": 120, "train_fraction": 0.5},
            r"digits has \d\d training examples of class 3, less than a score batch",
        ),
        ({"criteria": ["snip:ties=keep"], "min_per_layer": 1}, "snip:ties=keep may keep more or fewer"),
        ({"criteria": ["random"], "variants": ["quota:snip:ties=keep"]}, "snip:ties=keep may keep more or fewer"),
        ({"models": [parametrised], "init": "vs-h"}, "'1' is parametrised, so that vs-h cannot draw its weights"),
        ({"models": [wrong_classes]}, r"model wrong_classes gives \(2, 7\) for 2 examples of digits, not logits"),
        ({"models": [wrong_inputs]}, "model wrong_inputs does not take digits's inputs of shape"),
        ({"models": ["torchvision:alexnet"]}, "model torchvision:alexnet: does not take images of shape"),
    ],
)
def test_mistakes(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        resolve(pb.Sweep(**keys))


def test_the_same_value_has_the_same_identity_however_it_is_given() -> None:
    whole = pb.Sweep(sparsities=[0], weight_decay=0, learning_rate=1, train_fraction=1, seeds=1)
    exact = pb.Sweep(sparsities=[0.0], weight_decay=0.0, learning_rate=1.0, train_fraction=1.0, seeds=1)
    assert [t.identity for t in resolve(whole).trials] == [t.identity for t in resolve(exact).trials]


def test_what_only_python_can_give() -> None:
    sweep = pb.Sweep(schedule=Halving(steps=3), data_dir=Path("."))  # type: ignore[arg-type]
    assert (sweep.schedule, sweep.data_dir) == ("halving:steps=3", ".")


def test_what_only_python_can_get_wrong() -> None:
    class Dense(pb.Criterion):
        name = "dense"

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return model.weights()

    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"criteria": [Dense()]}, "a criterion cannot be called 'dense'"),
        ({"criteria": [Dense]}, "a name or an instance of Criterion"),
        ({"criteria": ["snip:bn=train"], "bn": "eval"}, "snip:bn=train and bn eval ask for different modes"),
        ({"data": [(1, 2)]}, "data is a name or a DataSet, not tuple"),
        ({"models": [3]}, "a model is a name or a function that builds one, not int"),
        ({"bn": "trian"}, "bn=trian is not one of published, train, eval"),
        ({"score_sampling": "blanced"}, "score-sampling 'blanced' is not balanced, random or class-N"),
        ({"seeds": 2.5}, "seeds=2.5 is not a whole number"),
    ]
    for keys, message in mistakes:
        with pytest.raises(pb.UserError, match=message):
            resolve(pb.Sweep(**keys))


PINNED = [
    "digits-lenet-5-caffe-dense-0-s0-0f77ab0bf503",
    "digits-lenet-5-caffe-snip-0.95-s0-06b8c1e303f8",
    "digits-lenet-5-caffe-grasp-0.95-s0-6c512d6f360e",
    "digits-lenet-5-caffe-synflow-0.95-s0-3a1e401ac65c",
]


@pytest.mark.parametrize("error", [AssertionError, IndexError, KeyError, ZeroDivisionError])
def test_whatever_a_network_says_of_its_inputs_is_one_line(error: type[Exception]) -> None:
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            raise error("a square")

    def refuses(_shape: tuple[int, ...], _classes: int) -> nn.Module:
        return Refuses()

    with pytest.raises(
        pb.UserError, match=rf"model refuses does not take digits's inputs .*{error.__name__}: .*a square"
    ):
        resolve(pb.Sweep(models=[refuses]))


def test_logits_are_numbers_with_a_point() -> None:
    class Counts(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)).long()

    def counts(_shape: tuple[int, ...], classes: int) -> nn.Module:
        return Counts(784, classes)

    with pytest.raises(pb.UserError, match=r"model counts gives \(2, 10\) of torch.int64"):
        resolve(pb.Sweep(models=[counts]))


@pytest.mark.parametrize(("sampling", "size"), [("class-99", 1), ("class-3", 500)])
def test_a_class_with_too_few_examples_is_named(sampling: str, size: int) -> None:
    with pytest.raises(pb.UserError, match=r"digits has \d+ training examples of class \d+, less than a score batch"):
        resolve(pb.Sweep(models=["lenet-300-100"], score_sampling=sampling, score_batch=size))


def test_of_a_network_of_which_nothing_is_known_nothing_is_taken_for_granted() -> None:
    assert Inspection() == Inspection(batch_norm=False, traced=(), unclear=())
