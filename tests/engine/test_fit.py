"""Training as a whole: what repeats, what is called when, what stops, what is seen."""

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine.training import PLAIN, assert_stepped, gradients, images, one_batch, small
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, Split
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.errors import DataError, ExampleError, InputError, ModelError, PrunusError, UnknownName

# What repeats, and what is put back


def trained(seed: int) -> list[torch.Tensor]:
    model = small(dropout=0.3)
    data = Data(Split(*images()), Split(*images()), 10, (0.5,), (0.3,), "noise")
    fit(
        model,
        data,
        Fit(epochs=2, batch_size=16, lr=0.05, augment=Augment(crop=1, flip=True)),
        runtime=Runtime(device="cpu", seed=seed),
    )
    return [p.detach() for p in model.parameters()]


def test_a_seed_means_identical_weights_and_another_seed_others():
    first, again, other = trained(3), trained(3), trained(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_global_seeds_and_modes_are_put_back():
    model = small()
    model.train()
    model[1].eval()
    torch.manual_seed(9)
    random.seed(9)
    np.random.seed(9)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    fit(model, one_batch(), PLAIN)
    assert model.training and model[0].training and not model[1].training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and (np.random.get_state()[1] == states[2]).all()


# Hooks and the user's own pieces


def test_hooks_are_called_in_order():
    calls: list[str] = []

    class Spy:
        def epoch_start(self, e: int) -> None:
            calls.append(f"epoch {e}")

        def penalty(self) -> torch.Tensor:
            calls.append("penalty")
            return torch.zeros(())

        def after_step(self) -> None:
            calls.append("after")

    fit(small(), one_batch() * 2, Fit(epochs=2, lr=0.01), hooks=[Spy()])
    assert calls == [
        f"epoch {e}" if i == 0 else name for e in range(2) for i, name in enumerate(("", *("penalty", "after") * 2))
    ]


def test_after_step_can_hold_a_mask():
    model = small()

    class Mask:
        def after_step(self) -> None:
            with torch.no_grad():
                model[0].weight[:3] = 0

    fit(model, one_batch() * 3, Fit(epochs=2, lr=0.1), hooks=[Mask()])
    assert model[0].weight[:3].abs().sum() == 0 and (model[0].weight[3:] != 0).all()


def test_a_hook_without_any_of_the_methods_is_refused():
    with pytest.raises(InputError, match="hook object has none of the methods param_groups, epoch_start, penalty"):
        fit(small(), one_batch(), PLAIN, hooks=[object()])


def test_a_loss_of_your_own_on_batches_of_your_own():
    model = nn.Linear(4, 1)
    torch.manual_seed(0)
    feed = [{"inputs": torch.randn(8, 4), "wanted": torch.randn(8, 1)}]
    before = copy.deepcopy(model)

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.mse_loss(net(batch["inputs"]), batch["wanted"])

    grads = gradients(model, lambda m: loss(m, feed[0]))
    history = fit(model, feed, PLAIN, loss=loss)
    assert_stepped(before, model, grads)
    assert round(history[0].images_per_second * history[0].seconds) == 8
    with pytest.raises(InputError, match="a loss of your own and a teacher"):
        fit(model, feed, PLAIN, loss=loss, teacher=model)


def test_a_dataloader_and_an_iterable_without_length():
    x, y = one_batch(32)[0]
    loader = DataLoader(TensorDataset(x, y), batch_size=8)

    class Stream:
        def __iter__(self):
            return iter(loader)

    sized, unsized = small(), small()
    config = Fit(epochs=2, lr=0.1, schedule="steps", steps=(1,))
    a, b = fit(sized, loader, config), fit(unsized, Stream(), config)
    assert [epoch.lr for epoch in a.epochs] == pytest.approx([0.1, 0.01])
    assert all(torch.equal(p, q) for p, q in zip(sized.parameters(), unsized.parameters(), strict=True))
    assert [epoch.loss for epoch in a.epochs] == [epoch.loss for epoch in b.epochs]


def test_validation_by_callable_and_by_split():
    data = Data(Split(*images()), Split.empty(1), 10, (0.5,), (0.3,), "noise")
    config = Fit(epochs=2, batch_size=25, lr=0.01)
    seen = fit(small(), data, config, validate=lambda m: m.training)
    assert [epoch.metrics for epoch in seen.epochs] == [True, True]
    model = small()
    history = fit(model, data, config, validate=Split(*images()))
    assert history[-1].metrics == evaluate(model, Split(*images()), mean=(0.5,), std=(0.3,))
    assert history.as_dict()["epochs"][1]["metrics"]["n"] == 50


def test_the_lone_last_image_is_left_out_and_the_loss_is_a_mean_over_images():
    data = Data(Split(*images(33)), Split.empty(1), 10, (0.5,), (0.3,), "noise")
    history = fit(small(), data, Fit(batch_size=16, lr=0.01))
    assert round(history[0].images_per_second * history[0].seconds) == 32
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = one_batch(12)[0]
    still = Fit(lr=0.0)
    whole = F.cross_entropy(model(x), y).item()
    assert fit(model, [(x[:9], y[:9]), (x[9:], y[9:])], still)[0].loss == pytest.approx(whole, rel=1e-6)


def test_no_epochs_is_no_change():
    model = small()
    before = copy.deepcopy(model.state_dict())
    assert len(fit(model, one_batch(), Fit(epochs=0))) == 0
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


# What stops


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step_and_the_last_finite_weights():
    good, bad = one_batch()[0], one_batch(seed=1)[0]
    bad[0][3, 0, 2, 2] = float("nan")
    model = small()
    with pytest.raises(PrunusError, match="loss became nan in epoch 1 of 2, step 3 ") as error:
        fit(model, [good, good, bad], Fit(epochs=2, lr=0.01))
    assert not isinstance(error.value, InputError) and "\n" not in str(error.value)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_penalty_that_is_not_finite_is_named():
    class Bad:
        def penalty(self) -> torch.Tensor:
            return torch.tensor(math.inf)

    with pytest.raises(PrunusError, match="a penalty became inf in epoch 1 of 1, step 1 "):
        fit(small(), one_batch(), PLAIN, hooks=[Bad()])


def test_data_that_cannot_be_trained_on():
    exhausted = iter(one_batch())
    with pytest.raises(DataError, match=r"no batches in epoch 2: fewer than two images .* or a generator used up"):
        fit(small(), exhausted, Fit(epochs=2, lr=0.01))
    empty = Data(Split.empty(1), Split.empty(1), 10, (0.5,), (0.3,), "exam")
    with pytest.raises(DataError, match="exam has no train part"):
        fit(small(), empty, PLAIN)
    with pytest.raises(InputError, match="not a bare Split"):
        fit(small(), Split(*images()), PLAIN)
    with pytest.raises(DataError, match="label 10 is out of range for a model with 10 outputs"):
        fit(small(), [(torch.zeros(2, 1, 8, 8), torch.tensor([3, 10]))], PLAIN)
    with pytest.raises(DataError, match=r"must be the pair \(x, y\)"):
        fit(small(), [torch.zeros(2, 1, 8, 8)], PLAIN)
    with pytest.raises(ExampleError, match=r"Sequential refuses a batch of shape \(2, 3, 8, 8\)"):
        fit(small(), [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))], PLAIN)
    with pytest.raises(ModelError, match="no trainable parameters"):
        fit(nn.Flatten(), one_batch(), PLAIN)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"epochs": -1}, "epochs=-1 must be at least 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": -0.1}, r"lr=-0.1 must be at least 0"),
        ({"momentum": 1.5}, r"momentum=1.5 must be in 0.0..1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"steps": (3,)}, "needs schedule='steps'"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
    ],
)
def test_settings_that_make_no_sense(setting, says):
    with pytest.raises((InputError, UnknownName), match=says):
        Fit(**setting)


# What is seen


def test_quiet_where_stderr_is_no_terminal_and_a_line_an_epoch_where_it_is(capsys, monkeypatch):
    fit(small(), one_batch(), Fit(epochs=2, lr=0.01))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(small(), one_batch(), Fit(epochs=2, lr=0.01))
    out, err = capsys.readouterr()
    assert out == "" and "epoch 1/2  loss 2." in err and "epoch 2/2" in err
    fit(small(), one_batch(), Fit(epochs=2, lr=0.01), progress=False)
    assert capsys.readouterr() == ("", "")
