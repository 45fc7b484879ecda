"""What is prunable, what is a batch, and how options are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.masks import Linear, OneShot, Schedule
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores, prunable_parameters
from pai_bench.support.errors import UserError


def test_prunable_weights_of_every_kind() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "linear": nn.Linear(4, 4),
            "conv": nn.Conv3d(2, 2, 3, groups=2),
            "transposed": nn.ConvTranspose1d(2, 2, 3),
            "norm": nn.LayerNorm(4),
            "bn": nn.BatchNorm1d(4),
            "gru": nn.GRU(4, 3, bidirectional=True),
            "cell": nn.LSTMCell(4, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        }
    )
    assert list(prunable_parameters(model)) == [
        "linear.weight",
        "conv.weight",
        "transposed.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "gru.weight_ih_l0_reverse",
        "gru.weight_hh_l0_reverse",
        "cell.weight_ih",
        "cell.weight_hh",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
    ]


def test_a_shared_weight_counts_once(network: tuple[nn.Module, pb.Batch]) -> None:
    found = list(prunable_parameters(network[0]).values())
    assert len({id(parameter) for parameter in found}) == len(found)


def test_a_model_without_prunable_weights() -> None:
    with pytest.raises(UserError, match="no prunable weight"):
        prunable_parameters(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3)),
    ],
)
def test_a_batch_is_checked(inputs: Tensor, targets: Tensor) -> None:
    with pytest.raises(UserError):
        pb.Batch(inputs, targets)


def test_options_by_text_and_by_keyword() -> None:
    assert pb.get_criterion("grasp:temperature=1:bn=eval") == pb.get_criterion("grasp", temperature=1.0, bn="eval")
    assert str(pb.get_criterion("grasp:temperature=1")) == "grasp:temperature=1.0"
    assert pb.get_criterion(str(pb.get_criterion("random:seed=7"))) == pb.get_criterion("random", seed=7)
    assert pb.get_criterion("snip_it") == pb.get_criterion("snip-it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snipp", "did you mean snip"),
        ("grasp:temprature=1", "did you mean temperature"),
        ("grasp:temperature=hot", "temperature=hot is not a finite number"),
        ("grasp:bn=both", "is not one of train, eval"),
        ("grasp:temperature", "OPTION=VALUE"),
        ("grasp:bn=train:bn=eval", "given twice"),
        ("./missing.py:Mine", "no file"),
        ("grasp:temperature=0", "temperature=0.0 must be positive"),
        ("grasp:temperature=nan", "temperature=nan is not a finite number"),
        ("random:seed=-1", "seed=-1 is outside"),
    ],
)
def test_mistakes_in_a_criterion(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pb.get_criterion(text)


def test_options_given_from_python_are_checked_and_brought_into_one_form() -> None:
    grasp: Any = type(pb.get_criterion("grasp"))
    assert str(grasp(temperature=1)) == "grasp:temperature=1.0"
    with pytest.raises(UserError, match="bn=both is not one of train, eval"):
        pb.get_criterion("snip", bn="both")
    with pytest.raises(UserError, match="not one of train, eval"):
        grasp(bn="trian")
    with pytest.raises(UserError, match="a name or an instance of Criterion"):
        pb.get_criterion(grasp)


NUMBERS = torch.arange(6) % 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"inputs": torch.zeros(0, 2), "targets": NUMBERS[:0]}, "the batch is empty"),
        ({"inputs": torch.tensor(1.0)}, "the batch is empty"),
        ({"targets": NUMBERS[:5]}, r"targets must be 6 class indices, one per input, not torch.int64 of shape \(5,\)"),
        ({"targets": NUMBERS[:, None]}, r"not torch.int64 of shape \(6, 1\)"),
        ({"targets": torch.zeros(6)}, r"not torch.float32 of shape \(6,\)"),
        ({"targets": torch.zeros(6, dtype=torch.bool)}, "not torch.bool of shape"),
        ({"targets": torch.zeros(6, dtype=torch.complex64)}, "not torch.complex64 of shape"),
        ({"targets": torch.zeros(5, 2), "loss": nn.MSELoss()}, r"targets must have 6 rows, one per input, not the sha"),
        ({"batches": 4}, "6 examples cannot be divided into 4 score batches of equal size"),
        ({"batches": 0}, "6 examples cannot be divided into 0 score batches"),
        ({"batches": 7}, "6 examples cannot be divided into 7 score batches"),
    ],
)
def test_what_is_no_batch(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pb.Batch(**{"inputs": torch.zeros(6, 2), "targets": NUMBERS} | keys)


def test_what_is_one() -> None:
    assert pb.Batch(torch.zeros(6, 2), NUMBERS.int()).targets.dtype is torch.int64
    for batches in (1, 2, 3, 6):
        parts = pb.Batch(torch.arange(6.0)[:, None], NUMBERS, batches=batches).split()
        assert [len(part.inputs) for part in parts] == [6 // batches] * batches
        assert torch.cat([part.inputs for part in parts]).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    rows = torch.rand(6, 2)
    assert pb.Batch(torch.zeros(6, 2), rows, loss=nn.functional.mse_loss).targets is rows
    pieces = pb.Batch(torch.arange(6.0)[:, None], NUMBERS, batches=2).split(2)
    assert [part.inputs.flatten().tolist() for part in pieces] == [[0, 1], [2], [3, 4], [5]]


@pytest.mark.parametrize("given", [torch.zeros(6, 2), (torch.zeros(6, 2),), (torch.zeros(6, 2), NUMBERS, 1), None])
def test_what_is_no_pair(given: Any) -> None:
    with pytest.raises(UserError, match=r"a batch is a Batch or a tuple \(inputs, targets\), not "):
        pb.get_criterion("snip").score(nn.Linear(2, 3), given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 0}, "micro_batch=0 must be at least 1"),
        ({"seed": 2**63}, "seed=9223372036854775808 is outside"),
        ({"accumulate": "sum"}, "accumulate=sum is not one of gradient, score"),
        ({"loss": "mse"}, "loss=mse is not one of cross-entropy, nll"),
        ({"ties": "drop"}, "ties=drop is not one of position, keep, remove"),
        ({"score_dtype": "float16"}, "score_dtype=float16 is not one of float32, float64"),
        ({"biases": 1}, "biases=1 is not true or false"),
    ],
)
def test_mistakes_in_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pb.get_criterion("snip", **options)
    assert pb.get_criterion("snip", micro_batch=1, seed=2**63 - 1).seed == 2**63 - 1


def test_integer_weights_are_refused() -> None:
    model = nn.Linear(2, 3)
    model.weight = nn.Parameter(torch.ones(3, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"'weight' has dtype torch.int8; only floating-point weights can be pruned"):
        prunable_parameters(model)
    with pytest.raises(UserError, match=r"unknown parameter of Linear 'wieght'.*did you mean weight"):
        prunable_parameters(nn.Linear(2, 3), only="wieght")


class OldMixin:
    revision = 3


def test_former_names_of_attributes_still_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"^Old\.\w+ is deprecated: name it ") as warned:

        @dataclass(frozen=True)
        class Old(OldMixin, Criterion):
            claims: ClassVar[tuple[str, ...]] = ("loss-scale",)

            def revision_under(self, schedule: Schedule) -> int:
                return 1 if schedule.steps == 1 else self.revision

            def score(self, model: MaskedModel, batch: Batch) -> Scores:
                return model.weights()

    assert [str(one.message).partition(" ")[0] for one in warned] == [
        "Old.claims",
        "Old.revision",
        "Old.revision_under",
    ]
    assert Path(warned[0].filename).name == Path(__file__).name
    assert (Old.properties, Old.formula_version, Old.claims) == (("loss-scale",), 3, ("loss-scale",))
    assert [Old().configuration(schedule)["revision"] for schedule in (OneShot(), Linear(steps=2))] == [1, 3]

    class Later(Old):  # of a class that has both names, no warning
        pass

    assert Later.properties == ("loss-scale",)


def test_attributes_are_read_by_their_former_names_with_a_warning() -> None:
    grasp: Any = pb.get_criterion("grasp")
    with pytest.warns(DeprecationWarning, match=r"GraSP.revision is deprecated: name it formula_version") as warned:
        assert grasp.revision == grasp.formula_version == 2
    assert Path(warned[0].filename).name == Path(__file__).name
    with pytest.warns(DeprecationWarning, match=r"GraSP.revision_under is deprecated"):
        assert grasp.revision_under(OneShot()) == 1
    with pytest.warns(DeprecationWarning, match=r"GraSP.claims is deprecated"):
        assert type(grasp).claims == ()


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_former_method_may_call_that_of_its_base() -> None:
    """By its former name, in one class after the other, as plug-ins of earlier versions do."""

    @dataclass(frozen=True)
    class Mine(type(pb.get_criterion("grasp"))):  # type: ignore[misc]
        def revision_under(self, schedule: Any) -> int:
            return 10 + int(super().revision_under(schedule))

    @dataclass(frozen=True)
    class Further(Mine):
        def revision_under(self, schedule: Any) -> int:
            return 100 + int(super().revision_under(schedule))

    own = pb.get_criterion("grasp").formula_version_under(OneShot())
    assert Mine().formula_version_under(OneShot()) == 10 + own
    assert Further().formula_version_under(OneShot()) == 110 + own
    assert Further().revision_under(OneShot()) == 110 + own


def test_keywords_of_a_class_go_to_its_other_bases() -> None:
    class Labelled:
        label: ClassVar[str] = ""

        def __init_subclass__(cls, label: str = "", **keys: Any) -> None:
            super().__init_subclass__(**keys)
            cls.label = label

    class Mine(Criterion, Labelled, label="me"):
        properties: ClassVar[Any] = "loss-scale"  # one may stand without a tuple

        def score(self, model: MaskedModel, batch: Batch) -> Scores:
            return model.weights()

    assert (Mine.label, Mine.properties, Mine.formula_version) == ("me", ("loss-scale",), 1)
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        type("Wrong", (Criterion,), {}, nothing=1)


@pytest.mark.parametrize(("given", "said"), [(3, "not 3$"), (int, r"not <class 'int'>; give int\(\)$")])
def test_what_is_no_name_of_a_criterion(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^a criterion is a name or an instance of Criterion, {said}"):
        pb.get_criterion(given)
