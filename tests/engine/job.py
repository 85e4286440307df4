"""A small training as a program of its own, to be killed, resumed, and run in several processes.

    python tests/engine/job.py '{"out": "weights.safetensors", "checkpoints": "folder", "every": 3, "kill": 7}'

`kill` ends the process by SIGKILL in the middle of that step, counted from 1 in this process; `pause` sleeps as many
seconds a step, so that someone else can.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunus.engine.config import Augment, Fit
from prunus.engine.loop import Checkpoints, evaluate, fit
from prunus.engine.runtime import Runtime
from prunus.engine.split import Data, Split

DEFAULTS = {
    "out": "",
    "checkpoints": "",
    "every": 0,
    "kill": 0,
    "pause": 0.0,
    "norm": True,
    "dropout": 0.2,
    "cut": False,
    "samples": 72,
    "fit": {},
    "runtime": {},
}


@dataclass
class Killer:
    """A hook that ends the process without any clean-up."""

    at: int
    pause: float
    steps: int = 0

    def after_step(self) -> None:
        self.steps += 1
        time.sleep(self.pause)
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def net(norm: bool, dropout: float, cut: bool) -> nn.Sequential:
    """Convolutions, batch norm where wanted, dropout; made smaller by a cut where wanted."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    if cut:
        import prunus

        small = prunus.prune(model, torch.zeros(1, 1, 8, 8), "channels=60%").model
        assert isinstance(small, nn.Sequential)
        return small
    return model


def data(samples: int) -> Data:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), dtype=torch.uint8, generator=g)
    split = Split(images, torch.randint(0, 10, (samples,), generator=g))
    return Data(split, split, 10, (0.5,), (0.25,), "noise")


def main() -> None:
    options = {**DEFAULTS, **json.loads(sys.argv[1])}
    unknown = set(options) - set(DEFAULTS)
    assert not unknown, unknown
    settings = {"epochs": 3, "batch_size": 16, "lr": 0.05, "augment": Augment(crop=1, flip=True), **options["fit"]}
    runtime = Runtime(device="cpu", **options["runtime"])
    model, images = net(options["norm"], options["dropout"], options["cut"]), data(options["samples"])
    folder = options["checkpoints"]
    fit(
        model,
        images,
        Fit(**settings),
        runtime=runtime,
        hooks=[Killer(options["kill"], options["pause"])],
        checkpoints=Checkpoints(Path(folder), every=options["every"]) if folder else None,
    )
    metrics = evaluate(model, images, runtime=Runtime(device="cpu"))
    if int(os.environ.get("RANK", "0")) == 0:
        from safetensors.torch import save_file

        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, options["out"])
        print(json.dumps(metrics.as_dict()))


if __name__ == "__main__":
    main()
