"""The main job in small: the settings it derives, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus.engine.config import Augment
from prunus.engine.data import Data, Split
from prunus.engine.runtime import Runtime
from prunus.errors import InputError
from prunus.lab.job import Cut, augmented, do, finetune, left, widths
from prunus.target import Target


def images(channels: int, side: int) -> Data:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, channels, side, side), generator=random).to(torch.uint8)
    split = Split(pixels, torch.arange(20) % 4)
    return Data(split, split, 4, (0.5,) * channels, (0.25,) * channels, "noise")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("channels", "side", "how", "expected"),
    [
        (3, 32, "auto", Augment(crop=4, flip=True)),
        (1, 8, "auto", Augment()),
        (1, 8, "crop-flip", Augment(crop=1, flip=True)),
        (3, 32, "crop", Augment(crop=4)),
        (3, 32, "none", Augment()),
    ],
)
def test_augmentation(channels: int, side: int, how: str, expected: Augment) -> None:
    assert augmented(images(channels, side), how) == expected


def test_loaders_augment_themselves() -> None:
    data = Data([], [], 0, (), (), "loaders")
    assert augmented(data, "auto") == augmented(data, "none") == Augment()
    with pytest.raises(InputError, match="--augment crop-flip is for images"):
        augmented(data, "crop-flip")


def test_without_data_nothing_is_measured() -> None:
    outcome = do(net(), torch.randn(1, 3, 8, 8), Cut(Target(channels=0.5)), runtime=Runtime(device="cpu"))
    assert (outcome.accuracy.before, outcome.accuracy.cut, outcome.accuracy.finetuned) == (None, None, None)
    assert outcome.history is None
    (width,) = widths(outcome.pruned)
    assert (width.group, width.dense, width.kept, width.layers) == ("0", 8, 4, ("0",))


def test_fine_tuning_needs_data() -> None:
    from prunus.engine.config import Fit

    with pytest.raises(InputError, match="fine-tuning needs data"):
        do(net(), torch.randn(1, 3, 8, 8), Cut(Target(channels=0.5)), after=Fit(1), runtime=Runtime(device="cpu"))


def test_finetune_takes_a_cut_network_or_a_module() -> None:
    from prunus.engine.config import Fit

    small = prunus.prune(net(), torch.randn(1, 3, 8, 8), target="channels=50%")
    was = small.model[0].weight.detach().clone()
    history = finetune(small, images(3, 8), Fit(epochs=2, batch_size=10, lr=0.1), progress=False)
    assert len(history) == 2 and not torch.equal(was, small.model[0].weight)
    assert len(prunus.finetune(small.model, images(3, 8), Fit(epochs=1), progress=False)) == 1


def test_left() -> None:
    assert (left(200, 50), left(0, 0)) == (0.25, 1.0)


@pytest.mark.parametrize(("words", "scale"), [([], 1.0), (["--scale", "0.5"], 0.5)])
def test_without_augmentation_streamed_images_are_not_cropped_at_random(words: list[str], scale: float) -> None:
    import argparse

    from prunus.cli import fitting
    from prunus.engine.stream import Stream

    parser = argparse.ArgumentParser()
    fitting.add_fit(parser, teacher=False)
    options = parser.parse_args(words)
    options.batch_size, options.lr, options.augment = 8, 0.1, "none"
    stream = Stream([], torch.zeros(0).long(), str, (3, 8, 8), None, None, False)
    data = Data(stream, stream, 0, (), (), "files")
    assert fitting.config(options, data, 1).augment == Augment(scale=scale)
