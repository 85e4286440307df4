"""Accumulated parts, averages of weights, hooks' own parameters, features of a teacher."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine.training import PLAIN, assert_stepped, gradients, one_batch, small
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunus.engine.average import Average
from prunus.engine.config import Augment, Distil, Fit
from prunus.engine.data import Data, Split
from prunus.engine.loop import fit
from prunus.engine.objective import attention_transfer
from prunus.engine.processes import One, Several, synchronised
from prunus.engine.runtime import Runtime
from prunus.engine.steps import divided
from prunus.errors import DataError, ExampleError, InputError, UnknownName


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_parts_of_unequal_size_give_the_gradient_of_the_whole_batch() -> None:
    model = small()
    model[1].eval = model[1].train = lambda *a: model[1]  # a norm that divides no batch
    model[1].training = False
    feed, before = one_batch(17), copy.deepcopy(model)
    fit(model, feed, Fit(1, lr=0.1, momentum=0, weight_decay=0, schedule="steps", accumulate=3))
    frozen = copy.deepcopy(before)

    def loss(net: nn.Module) -> torch.Tensor:
        net[1].training = False
        return cross_entropy(net, feed[0])

    assert_stepped(before, model, gradients(frozen, loss))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.arange(5), [[0, 1, 2], [3, 4]]),
        ((torch.arange(4), torch.arange(4) + 10), [([0, 1], [10, 11]), ([2, 3], [12, 13])]),
        ([[1, 2, 3, 4], ["a", "b", "c", "d"]], [[[1, 2], ["a", "b"]], [[3, 4], ["c", "d"]]]),
        ({"x": torch.arange(2), "y": [5, 6]}, [{"x": [0], "y": [5]}, {"x": [1], "y": [6]}]),
    ],
)
def test_a_batch_is_divided_along_its_first_axis(batch: Any, expected: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return type(value)(plain(v) for v in value) if isinstance(value, list | tuple) else value

    assert plain(divided(batch, 2)) == expected
    assert divided(batch, 1) == [batch]


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="accumulate=4 cannot divide a batch of 2"):
        divided((torch.zeros(2, 3), torch.zeros(2)), 4)
    with pytest.raises(InputError, match="accumulate=2 cannot divide a batch that holds str"):
        divided(("name", torch.zeros(2)), 2)
    with pytest.raises(InputError, match="accumulate=3 cannot divide a batch of 2"):
        Fit(batch_size=2, accumulate=3)


def test_the_average_is_torchs_with_the_decay_of_the_step() -> None:
    model = nn.Linear(3, 2)
    ours = Average(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # its first update copies
    for step in range(100):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        ours.update()
        if step >= 80:  # (1 + 80) / (10 + 80) = .9: from here on both have one decay
            theirs.update_parameters(model)
        else:
            theirs.module.load_state_dict(dict(zip(model.state_dict(), ours.average, strict=True)))
    for a, b in zip(ours.average, theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_average_is_validated_and_left_behind() -> None:
    model, seen = small(), []

    def validate(net: nn.Module) -> float:
        seen.append(net[6].weight.detach().clone())
        return 0.0

    fit(model, one_batch() * 5, Fit(2, lr=0.5, ema=0.99), validate=validate, progress=False)
    assert torch.equal(model[6].weight, seen[-1])
    plain = small()
    fit(plain, one_batch() * 5, Fit(2, lr=0.5), progress=False)
    assert not torch.allclose(model[6].weight, plain[6].weight)


class Gated:
    """A hook with a parameter of its own, g: the penalty is (g - 1)²."""

    def __init__(self, lr_scale: float) -> None:
        self.gate, self.lr_scale = nn.Parameter(torch.tensor(0.0)), lr_scale

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gate], "lr_scale": self.lr_scale}]

    def penalty(self) -> torch.Tensor:
        return (self.gate - 1) ** 2


def test_a_hooks_own_parameters_are_trained_at_their_own_rate() -> None:
    hook = Gated(lr_scale=0.5)
    fit(small(), one_batch(), PLAIN, hooks=[hook])
    assert float(hook.gate.detach()) == pytest.approx(0.5 * 0.1 * 2)


def test_penalties_count_once_a_step_however_many_parts_it_has() -> None:
    hook = Gated(lr_scale=1.0)
    history = fit(
        small(), one_batch(), Fit(1, lr=0.1, momentum=0, schedule="steps", accumulate=4), hooks=[hook], progress=False
    )
    assert float(hook.gate.detach()) == pytest.approx(0.2)
    assert history[0].penalty == pytest.approx(1.0)


def test_attention_transfer_by_hand() -> None:
    # One image of two positions: Q_S = (3² + 4², 0) -> (1, 0); Q_T = (1, 1) -> (1, 1)/√2, with other channels.
    student = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    teacher = torch.tensor([[[1.0, 1.0]]])
    expected = ((1 - 0.5**0.5) ** 2 + 0.5) ** 0.5
    assert float(attention_transfer(student, teacher)) == pytest.approx(expected)
    with pytest.raises(ExampleError, match=r"features of shape \(1, 2\) and \(1, 2\) cannot be compared"):
        attention_transfer(torch.zeros(1, 2), torch.zeros(1, 2))


def test_features_of_a_teacher_of_another_width_pull_the_student() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(768, 10))
    student = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    batch = one_batch(32)

    def apart() -> float:
        with torch.no_grad():
            return float(attention_transfer(student[:2](batch[0][0]), teacher[:2](batch[0][0])))

    before = apart()
    distil = Distil(weight=0.0, features=("1",), feature_weight=10.0)
    config = Fit(30, lr=0.02, weight_decay=0, distil=distil)
    fit(student, batch, config, teacher=teacher, progress=False)
    assert apart() < 0.7 * before
    assert not student[1]._forward_hooks
    wrong = Fit(distil=Distil(features=("conv1",)))
    with pytest.raises(UnknownName, match="unknown module 'conv1'"):
        fit(student, batch, wrong, teacher=teacher, progress=False)
    with pytest.raises(InputError, match="a compiled network runs no hooks"):
        fit(student, batch, config, teacher=teacher, runtime=Runtime(compile=True), progress=False)


def test_the_best_epoch_needs_something_to_be_chosen_by() -> None:
    with pytest.raises(InputError, match="selection='best' needs a validation part"):
        fit(small(), one_batch(), Fit(selection="best"))
    with pytest.raises(InputError, match="metrics of type tuple cannot be ranked"):
        fit(small(), one_batch(), Fit(selection="best"), validate=lambda net: (1, 2), progress=False)


def test_a_part_that_the_data_lacks_is_named() -> None:
    from prunus.engine.loop import evaluate

    images = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match="four has no validation part"):
        evaluate(small(), Data(images, images, 10, (0.5,), (0.5,), "four"), part="validation")
    with pytest.raises(InputError, match="a batch of 4 cannot be divided into 8 parts"):
        twice = Several(0, 2)
        from prunus.engine.steps import steps_of

        steps_of(
            Data(images, images, 10, (0.5,), (0.5,), "four"),
            Fit(batch_size=4, accumulate=4, augment=Augment()),
            Runtime(device="cpu"),
            twice,
            len,
        )


def test_synchronised_batch_norms_need_a_gpu_and_other_processes() -> None:
    model = small()
    with synchronised(model, True, One(), torch.device("cpu")):
        assert isinstance(model[1], nn.BatchNorm2d)
    with (
        pytest.raises(InputError, match="sync_bn needs CUDA devices"),
        synchronised(model, True, Several(0, 2), torch.device("cpu")),
    ):
        pass


def test_synchronised_batch_norms_are_put_back() -> None:
    model = small().train()
    norm, shared = model[1], model[1].running_mean
    with synchronised(model, True, Several(0, 2), torch.device("cuda")):  # nothing runs, so no GPU is needed
        assert isinstance(model[1], nn.SyncBatchNorm)
        model[1].running_mean += 1
        model.eval()
    assert model[1] is norm
    assert torch.equal(shared, torch.ones(8))
    assert not model[1].training
