"""A bundled CIFAR ResNet with published weights, and images in memory: what several scripts start from."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from records import digest
from torch import Tensor, nn

from prunus.engine.config import Augment, Fit
from prunus.engine.data import Data, load
from prunus.engine.loop import evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Split
from prunus.errors import InputError
from prunus.models import load_weights, resolve

NAMED = ("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule")
"""Settings of a training that a record names."""


@dataclass(frozen=True, eq=False)
class Start:
    """The network, its images, and where it is trained. digest: of the file of weights."""

    model: str
    weights: Path
    digest: str
    data: Data
    device: str
    compile: bool

    def build(self) -> nn.Module:
        """The dense network with the published weights."""
        net = resolve(self.model, self.data.classes)
        load_weights(net, self.weights)
        return net.eval()

    def example(self) -> Tensor:
        return self.data.example()

    def runtime(self, seed: int) -> Runtime:
        return Runtime(self.device, "bf16", channels_last=True, compile=self.compile, seed=seed)

    def top1(self, net: nn.Module) -> float:
        """Accuracy on the test part in percent, float32."""
        metrics = evaluate(net, self.data, runtime=Runtime(self.device, channels_last=True))
        return round(float(metrics.top1), 4)

    def train(self, net: nn.Module, config: Fit, seed: int, hooks: Sequence[Any] = ()) -> float:
        """Train in place; seconds."""
        if not config.epochs:
            return 0.0
        torch.compiler.reset()  # torch compiles a class for eight networks of other widths, and then no more
        data = replace(self.data, validation=None)  # nothing is chosen by epoch, so none is validated
        return float(fit(net, data, config, hooks=hooks, runtime=self.runtime(seed), progress=False).seconds)


def start_of(options: argparse.Namespace, limit: int) -> Start:
    """What the options say, with so many images of each part (0: all). Raises InputError."""
    digits = digest(options.weights)
    data = limited(load(options.data, mean=options.mean, std=options.std), limit)
    device, compile = getattr(options, "device", "cpu"), getattr(options, "compile", False)
    return Start(options.model, options.weights, digits, data, device, compile)


def limited(data: Data, limit: int) -> Data:
    """So many images of each part (0: all), or as many as it has. Raises InputError where they are not in memory."""
    if not isinstance(data.train, Split) or not isinstance(data.test, Split):
        raise InputError(f"{data.name} is streamed or gives loaders; images in memory are needed")
    if not limit:
        return data
    train, test = (part.subset(torch.arange(min(limit, len(part)))) for part in (data.train, data.test))
    return replace(data, train=train, test=test)


def sgd(epochs: int, lr: float, weight_decay: float = 5e-4) -> Fit:
    """SGD with a cosine on batches of 128, cropped and mirrored."""
    augment = Augment(crop=4, flip=True)
    return Fit(epochs, 128, lr, momentum=0.9, weight_decay=weight_decay, schedule="cosine", augment=augment)


def new_statistics(net: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """The network, its batch norms averaged anew over these batches; in eval mode."""
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    net.train()
    with torch.no_grad():
        for x in batches:
            net(x.to(next(net.parameters()).device))
    return net.eval()


def told(training: Fit, names: Sequence[str], compile: bool) -> dict[str, Any]:
    """Settings of a training that a record names; all others are the defaults."""
    how = {name: getattr(training, name) for name in names}
    how |= {"crop": training.augment.crop, "flip": training.augment.flip}
    return how | {"precision": "bf16", "channels_last": True, "compile": compile}
