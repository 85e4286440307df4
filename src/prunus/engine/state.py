"""Everything that a training is at one moment, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.engine import checkpoint
from prunus.engine.average import Average
from prunus.engine.checkpoint import Checkpoints
from prunus.engine.config import Fit, Selection
from prunus.engine.history import Epoch
from prunus.engine.ledger import Ledger
from prunus.engine.processes import One
from prunus.engine.runtime import Runtime
from prunus.engine.task import goodness
from prunus.errors import CheckpointError

__all__ = ["HOOKS", "Best", "State", "having", "settings_of", "tensors_of"]

HOOKS = ("param_groups", "epoch_start", "penalty", "after_step", "eligible")
"""What the loop asks of hooks, beside their state."""


@dataclass(frozen=True)
class Best:
    """The best epoch so far, how good it was, and the model's tensors of then."""

    epoch: int
    goodness: float
    tensors: Mapping[str, Tensor] = field(repr=False)


@dataclass
class State:
    """A training between two steps: `step` steps of epoch `epoch` (from 0) are done, and `done` epochs before it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average
    hooks: Sequence[Any]
    settings: dict[str, Any]
    epoch: int = 0
    step: int = 0
    before: int = 0
    done: list[Epoch] = field(default_factory=list)
    best: Best | None = None
    ledger: Ledger | None = None

    def open(self, e: int, epochs: int, runtime: Runtime) -> Ledger:
        """Begin epoch e, or go on with it where a checkpoint was written in its middle."""
        if self.ledger is None:
            for hook in having(self.hooks, "epoch_start"):
                hook.epoch_start(e)
            self.ledger = Ledger(e, epochs, runtime)
        return self.ledger

    def due(self, every: int, length: int | None) -> bool:
        """Whether a checkpoint is to be written in the middle of the epoch, `every` steps."""
        return every > 0 and (self.before + self.step) % every == 0 and self.step != length

    def close(self, processes: One) -> Epoch:
        """End the epoch: its figures, and running statistics averaged over the processes."""
        assert self.ledger is not None
        done = self.ledger.close(processes)
        self.ledger = None
        self.epoch, self.before, self.step = self.epoch + 1, self.before + self.step, 0
        processes.average_(running_statistics(self.model))
        return done

    def choose(self, done: Epoch, selection: Selection) -> None:
        """Note the epoch, and keep the model's tensors if it is the best that hooks find eligible."""
        self.done.append(done)
        if selection == "last" or not all(hook.eligible() for hook in having(self.hooks, "eligible")):
            return
        good = goodness(done.metrics)
        good = -math.inf if math.isnan(good) else good
        if self.best is None or good > self.best.goodness:
            self.best = Best(done.epoch, good, {k: t.detach().clone() for k, t in tensors_of(self.model).items()})

    def settle(self) -> None:
        """Leave behind what is wanted: the best epoch, or the average, or the weights as they are."""
        if self.best is not None:
            put(self.model, self.best.tensors)
        else:
            self.average.settle()

    def save(self, checkpoints: Checkpoints | None, processes: One) -> None:
        """Write a checkpoint, in the first process. Running statistics are averaged over the processes first."""
        if checkpoints is None:
            return
        if self.step:
            processes.average_(running_statistics(self.model))
        sums = None if self.ledger is None else self.ledger.state_dict(processes)
        if processes.rank == 0:
            checkpoint.write(checkpoints.folder, self.before + self.step, self.as_dict(sums))
            checkpoint.prune(checkpoints.folder, checkpoints.keep)
        processes.wait()

    def as_dict(self, ledger: dict[str, Any] | None) -> dict[str, Any]:
        """Nested plain data and tensors, for `checkpoint.write`."""
        best = self.best
        return {
            "settings": self.settings,
            "place": {"epoch": self.epoch, "step": self.step, "before": self.before},
            "model": tensors_of(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
            "hooks": [hook.state_dict() if hasattr(hook, "state_dict") else None for hook in self.hooks],
            "done": [epoch.as_dict() for epoch in self.done],
            "ledger": ledger,
            "best": None if best is None else {"epoch": best.epoch, "goodness": best.goodness, "tensors": best.tensors},
        }

    def restore(self, checkpoints: Checkpoints | None, runtime: Runtime, processes: One) -> None:
        """Go on from the newest good checkpoint, if there is one and that is wanted.

        Raises CheckpointError where it belongs to another training.
        """
        if checkpoints is None:
            return
        if not checkpoints.resume:
            if processes.rank == 0:
                checkpoint.clear(checkpoints.folder)
            processes.wait()
            return
        found = checkpoint.newest(checkpoints.folder)
        processes.wait()
        if found is None:
            return
        path, _, saved = found
        _same_settings(path.name, saved["settings"], self.settings)
        for name, value in saved["place"].items():
            setattr(self, name, value)
        if len(saved["hooks"]) != len(self.hooks):
            was, now = len(saved["hooks"]), len(self.hooks)
            raise CheckpointError(f"{path.name} was written with {was} hooks, and now there are {now}; give those")
        put(self.model, saved["model"])
        self.optimizer.load_state_dict(_laid_out(saved["optimizer"], self.optimizer))
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.average.load_state_dict(saved["average"])
        for hook, state in zip(self.hooks, saved["hooks"], strict=True):
            if state is not None:
                hook.load_state_dict(state)
        self.done = [Epoch.of(epoch) for epoch in saved["done"]]
        self.best = None if saved["best"] is None else Best(**saved["best"])
        if saved["ledger"] is not None:  # in the middle of an epoch
            self.ledger = Ledger(self.epoch, self.settings["epochs"], runtime)
            if processes.rank == 0:
                self.ledger.load_state_dict(saved["ledger"], runtime.torch_device)


def having(hooks: Sequence[Any], name: str) -> list[Any]:
    """The hooks that have this method."""
    return [hook for hook in hooks if hasattr(hook, name)]


def settings_of(model: nn.Module, config: Fit, runtime: Runtime, world: int, steps: int | None) -> dict[str, Any]:
    """What must be the same for a training to go on: settings, the network's make, processes, steps an epoch."""
    made = "\n".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors_of(model).items())
    shown = {name: getattr(runtime, name) for name in ("precision", "channels_last", "compile", "seed", "sync_bn")}
    settings = {
        **asdict(config),
        **shown,
        "network": hashlib.sha256(made.encode()).hexdigest()[:16],
        "processes": world,
        "steps an epoch": steps,
    }
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, non-persistent ones too, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into the model's own tensors, which keep device and layout."""
    own = tensors_of(model)
    if set(own) != set(tensors):
        raise CheckpointError(f"the checkpoint has other tensors: {', '.join(sorted(set(own) ^ set(tensors))[:5])}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of all norms."""
    names = ("running_mean", "running_var")
    found = (getattr(module, name, None) for module in model.modules() for name in names)
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def _same_settings(name: str, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for key in {**saved, **now}:
        if saved.get(key) != now.get(key):
            raise CheckpointError(
                f"{name} is of a training with {key}={saved.get(key)!r}, not {now.get(key)!r}; use the same settings, "
                "or another folder"
            )


def _laid_out(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state with each tensor in the memory layout of its parameter: results then agree to the bit."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def like(value: Any, p: Tensor) -> Any:
        if isinstance(value, Tensor) and value.shape == p.shape:
            return torch.empty_like(p, dtype=value.dtype).copy_(value)
        return value

    state = {i: {key: like(v, parameters[i]) for key, v in one.items()} for i, one in saved["state"].items()}
    return {**saved, "state": state}
