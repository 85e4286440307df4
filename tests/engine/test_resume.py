"""A training that is killed and goes on leaves the same weights, to the bit, as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.launch import alone
from engine.training import images, small
from safetensors.torch import load_file
from torch import nn

from prunus.engine.config import Augment, Distil, Fit
from prunus.engine.loop import Checkpoints, History, evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Data, Split
from prunus.errors import CheckpointError, PrunusError

SPLIT = Split(*images(90))
DATA = Data(SPLIT, SPLIT, 10, (0.5,), (0.25,), "noise", validation=SPLIT.subset(torch.arange(40)))


class Stopped(Exception):
    pass


class Gate:
    """A hook with a parameter of its own and a state, which stops the training after some steps."""

    def __init__(self, model: nn.Module, stop: int) -> None:
        self.model, self.stop, self.steps, self.epochs = model, stop, 0, []
        self.gate = nn.Parameter(torch.tensor([0.6, 0.7]))

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gate], "lr_scale": 0.5}]

    def epoch_start(self, e: int) -> None:
        self.epochs.append(e)

    def penalty(self) -> torch.Tensor:
        return 0.01 * (self.gate**2).sum() + 1e-3 * next(self.model.parameters()).abs().sum()

    def after_step(self) -> None:
        self.steps += 1
        self.stop -= 1
        if not self.stop:
            raise Stopped

    def state_dict(self) -> dict[str, Any]:
        return {"gate": self.gate, "steps": self.steps, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.gate.copy_(state["gate"])
        self.steps, self.epochs = state["steps"], state["epochs"]


def train(config: Fit, runtime: Runtime, stop: int, folder: Path | None, **options: Any) -> tuple[Any, Any, History]:
    model = small(dropout=0.3)
    gate = Gate(model, stop)
    kept = None if folder is None else Checkpoints(folder, every=4)
    history = fit(model, DATA, config, runtime=runtime, hooks=[gate], checkpoints=kept, progress=False, **options)
    return model, gate, history


CASES = {
    "sgd, average, clipping, best epoch": (
        Fit(4, 16, 0.1, nesterov=True, clip=1.0, ema=0.9, selection="best", augment=Augment(crop=1, flip=True)),
        Runtime(device="cpu"),
    ),
    "adamw, parts, one cycle, bf16": (
        Fit(4, 16, 0.01, "adamw", schedule="onecycle", accumulate=2, label_smoothing=0.1, augment=Augment(mixup=0.4)),
        Runtime(device="cpu", precision="bf16", channels_last=True, seed=3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_it_goes_on_to_the_same_end(case: str, tmp_path: Path) -> None:
    config, runtime = CASES[case]
    straight, gate, history = train(config, runtime, 0, None)
    for stop in (3, 6, 5):  # in the first epoch, in its last step, and across epochs
        with pytest.raises(Stopped):
            train(config, runtime, stop, tmp_path)
    resumed, other, again = train(config, runtime, 0, tmp_path)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert torch.equal(gate.gate, other.gate)
    assert (gate.steps, gate.epochs) == (other.steps, other.epochs)
    for a, b in zip(history.epochs, again.epochs, strict=True):
        assert (a.epoch, a.loss, a.penalty, a.lr, a.metrics) == (b.epoch, b.loss, b.penalty, b.lr, b.metrics)
    assert history.best == again.best
    # A training that is done is not done again, and gives the same.
    done, _, third = train(config, runtime, 0, tmp_path)
    assert len(third) == config.epochs
    assert all(torch.equal(t, done.state_dict()[n]) for n, t in straight.state_dict().items())


def test_the_users_own_loader_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    class Noisy(torch.utils.data.Dataset):  # augmentation from the global generator, as many have it
        def __len__(self) -> int:
            return 60

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.randn(1, 8, 8) + i / 60, i % 10

    def run(stop: int, folder: Path | None) -> nn.Module:
        model = small(dropout=0.3)
        loader = torch.utils.data.DataLoader(Noisy(), batch_size=10, shuffle=True)
        kept = None if folder is None else Checkpoints(folder, every=4)
        fit(model, loader, Fit(epochs=2, lr=0.05), hooks=[Gate(model, stop)], checkpoints=kept, progress=False)
        return model

    straight = run(0, None)
    with pytest.raises(Stopped):
        run(10, tmp_path)
    resumed = run(0, tmp_path)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in straight.state_dict().items())


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(tmp_path: Path) -> None:
    config, runtime = CASES["sgd, average, clipping, best epoch"]
    straight, _, _ = train(config, runtime, 0, None)
    with pytest.raises(Stopped):
        train(config, runtime, 13, tmp_path)
    last = max(tmp_path.glob("step-*"))
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=rf"{last.name}.*torn.*going on from step-"):
        resumed, _, _ = train(config, runtime, 0, tmp_path)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in straight.state_dict().items())


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    train(Fit(1, 16, 0.1), Runtime(device="cpu"), 0, tmp_path)
    with pytest.raises(CheckpointError, match=r"step-00000006.* is of a training with lr=0.1, not 0.2; use the same"):
        train(Fit(1, 16, 0.2), Runtime(device="cpu"), 0, tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(CheckpointError, match="is of a training with network="):
        fit(other, DATA, Fit(1, 16, 0.1), runtime=Runtime(device="cpu"), checkpoints=Checkpoints(tmp_path))
    anew = Checkpoints(tmp_path, resume=False)
    fit(other, DATA, Fit(1, 16, 0.1), runtime=Runtime(device="cpu"), checkpoints=anew, progress=False)
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_what_a_failing_step_leaves_behind_is_whole(tmp_path: Path) -> None:
    model = small()
    bad = [(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))] * 5
    bad += [(torch.full((4, 1, 8, 8), float("nan")), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(PrunusError, match="the loss became nan in epoch 1 of 1, step 6"):
        fit(model, bad, Fit(lr=0.01), checkpoints=Checkpoints(tmp_path, every=2), progress=False)
    assert max(p.name for p in tmp_path.iterdir()) == "step-00000004.safetensors"


def test_the_best_epoch_is_left_behind() -> None:
    model = small()
    history = fit(model, DATA, Fit(6, 16, 0.5, selection="best"), runtime=Runtime(device="cpu"), progress=False)
    top = max(epoch.metrics.top1 for epoch in history.epochs)
    assert history.best is not None
    assert history[history.best - 1].metrics.top1 == top
    assert evaluate(model, DATA, part="validation").top1 == top
    assert history.best < 6, "or this test shows nothing"


def test_only_eligible_epochs_compete() -> None:
    class Late:
        seen = 0

        def eligible(self) -> bool:
            self.seen += 1
            return self.seen > 4

    history = fit(small(), DATA, Fit(6, 16, 0.5, selection="best"), hooks=[Late()], progress=False)
    assert history.best in (5, 6)


def test_distilling_features_resumes_too(tmp_path: Path) -> None:
    config = Fit(2, 30, 0.05, distil=Distil(features=("0",), weight=0.3))
    teacher = small(seed=5)
    runtime = Runtime(device="cpu")
    straight, _, _ = train(config, runtime, 0, None, teacher=teacher)
    with pytest.raises(Stopped):
        train(config, runtime, 5, tmp_path, teacher=teacher)
    resumed, _, _ = train(config, runtime, 0, tmp_path, teacher=teacher)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in straight.state_dict().items())


MODES = {
    "fp32": {"runtime": {}},
    "bf16": {"runtime": {"precision": "bf16", "channels_last": True}},
    "a cut network": {"runtime": {}, "cut": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_process_goes_on(mode: str, tmp_path: Path) -> None:
    """SIGKILL leaves no time for anything. benchmarks/kill.py does more of it, and torch.compile."""
    job: dict[str, Any] = {"every": 3, "fit": {"epochs": 2, "ema": 0.9}, **MODES[mode]}
    straight, resumed = str(tmp_path / "straight.safetensors"), str(tmp_path / "resumed.safetensors")
    alone({**job, "out": straight})
    killed = alone({**job, "out": resumed, "checkpoints": str(tmp_path / "c"), "kill": 8}, check=False)
    assert killed.returncode == -9
    assert not Path(resumed).exists()
    alone({**job, "out": resumed, "checkpoints": str(tmp_path / "c")})
    a, b = load_file(straight), load_file(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)
