"""Augmentation of whole batches, against torchvision's on one image at a time with the same parameters."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF

from prunus.engine import augment, colour, warp
from prunus.engine.changes import Changes
from prunus.engine.config import Augment

N = 12


def images(channels: int = 3, size: tuple[int, int] = (13, 16), n: int = N, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=g)
    x[0] = 77  # flat: nothing to stretch or to equalise
    x[1] = x[1] // 4 + 60  # low contrast
    return x


def amounts(low: float, high: float, n: int = N) -> torch.Tensor:
    return torch.linspace(low, high, n)


def torchvision_affine(translate=(0, 0), shear=(0.0, 0.0), centre=None):
    return lambda image: TF.affine(image, 0.0, list(translate), 1.0, list(shear), center=centre)


def degrees(amount: torch.Tensor) -> float:
    return float(np.degrees(np.arctan(float(amount))))


FACTORS = amounts(0.1, 1.9)
CASES = {
    "brightness": (colour.brightness, FACTORS, lambda x, a: TF.adjust_brightness(x, float(a))),
    "contrast": (colour.contrast, FACTORS, lambda x, a: TF.adjust_contrast(x, float(a))),
    "saturation": (colour.saturation, FACTORS, lambda x, a: TF.adjust_saturation(x, float(a))),
    "sharpness": (colour.sharpness, FACTORS, lambda x, a: TF.adjust_sharpness(x, float(a))),
    "posterize": (colour.posterize, torch.arange(N) % 9, lambda x, a: TF.posterize(x, int(a))),
    "solarize": (colour.solarize, amounts(0, 255), lambda x, a: TF.solarize(x, float(a))),
    "autocontrast": (lambda x, _: colour.autocontrast(x), FACTORS, lambda x, _: TF.autocontrast(x)),
    "equalize": (lambda x, _: colour.equalize(x), FACTORS, lambda x, _: TF.equalize(x)),
    "invert": (lambda x, _: colour.invert(x), FACTORS, lambda x, _: TF.invert(x)),
    "shear_x": (
        warp.shear_x,
        amounts(-0.3, 0.3),
        lambda x, a: torchvision_affine(shear=(degrees(a), 0.0), centre=[0, 0])(x),
    ),
    "shear_y": (
        warp.shear_y,
        amounts(-0.3, 0.3),
        lambda x, a: torchvision_affine(shear=(0.0, degrees(a)), centre=[0, 0])(x),
    ),
    "translate_x": (warp.translate_x, amounts(-7.2, 7.2), lambda x, a: torchvision_affine((int(a), 0))(x)),
    "translate_y": (warp.translate_y, amounts(-5.9, 5.9), lambda x, a: torchvision_affine((0, int(a)))(x)),
    "rotate": (warp.rotate, amounts(-30, 30), lambda x, a: TF.rotate(x, float(a))),
}
ROUNDS = ("contrast", "saturation", "sharpness")
"""Where a blend in another order of additions may fall on the other side of a whole level."""
WARPS = ("shear_x", "shear_y", "rotate")
"""Where a pixel lies halfway between two, to within rounding, either is the nearest."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_each_operation_is_torchvisions(name, channels):
    ours, parameters, theirs = CASES[name]
    x = images(channels)
    got = ours(x.clone(), parameters)
    want = torch.stack([theirs(image, a) for image, a in zip(x, parameters, strict=True)])
    assert got.dtype == torch.uint8 and got.shape == x.shape
    apart = (got.int() - want.int()).abs()
    if name in WARPS:
        assert (apart.amax(1) > 0).float().mean() < 0.01, "pixels that come from another place"
    else:
        assert apart.max() <= (1 if name in ROUNDS else 0)
        assert (apart > 0).float().mean() < 0.01


def test_a_batch_is_not_written_into():
    x = images()
    for ours, parameters, _ in CASES.values():
        before = x.clone()
        ours(x, parameters)
        assert torch.equal(x, before)


def test_jitter_is_brightness_then_contrast_then_saturation():
    x, factors = images(), torch.rand(N, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    got = augment.jitter(x, factors)
    for image, mine, (b, c, s) in zip(x, got, factors.tolist(), strict=True):
        want = TF.adjust_saturation(TF.adjust_contrast(TF.adjust_brightness(image, b), c), s)
        assert (mine.int() - want.int()).abs().max() <= 3  # a level lost in an early step grows
        assert (mine != want).float().mean() < 0.02


def test_cutout_blanks_a_square_that_may_reach_over_the_edge():
    x = torch.ones(4, 3, 8, 9)
    cut = augment.cutout(x, torch.tensor([2, -2, 7, 0]), torch.tensor([3, 0, 8, 0]), 4)
    assert torch.equal(cut[0], TF.erase(x[0], 2, 3, 4, 4, torch.zeros(3, 4, 4)))
    assert [int((image[0] == 0).sum()) for image in cut] == [16, 8, 1, 16]


def test_mixup_and_its_labels():
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5)
    mixed, labels = augment.mixup(x, y, 0.7, 6)
    assert torch.allclose(mixed[0], 0.7 * x[0] + 0.3 * x[4])
    assert labels[0].tolist() == pytest.approx([0.7, 0, 0, 0, 0.3, 0]) and labels[2].tolist() == [0, 0, 1, 0, 0, 0]
    assert torch.allclose(labels.sum(1), torch.ones(5))


def test_cutmix_labels_follow_the_area():
    x, y = torch.stack([torch.full((1, 8, 8), float(i)) for i in range(4)]), torch.arange(4)
    for centre in ((0.5, 0.5), (0.0, 0.9)):
        mixed, labels = augment.cutmix(x, y, 0.75, centre, 4)
        for i in range(4):
            of = torch.bincount(mixed[i].long().flatten(), minlength=4) / 64
            assert torch.equal(labels[i], of)
    assert (mixed[0] == 3).sum() == 2 * 3, "a quarter of the area would be 16, had the box room"


def changes(epoch: int = 0, n: int = 20000, seed: int = 0, **settings) -> Changes:
    return Changes(Augment(**settings), n, seed, epoch, torch.device("cpu"))


def test_draws_are_uniform():
    made = changes(jitter=0.4, cutout=8)
    assert made.factors.min() > 0.6 and made.factors.max() < 1.4
    assert made.factors.mean(0).tolist() == pytest.approx([1, 1, 1], abs=4 * 0.8 / 12**0.5 / 20000**0.5)
    x = torch.ones(20000, 1, 32, 32)
    blank = (made.blanked(x, slice(None)) == 0).float().mean((0, 1))
    # A square of 8 around a uniform centre covers an inner pixel 64 times in 1024, a corner 4 x 4 or 5 x 5 times.
    assert blank[10:20, 10:20].mean() == pytest.approx(64 / 1024, rel=0.02)
    assert float(blank[0, 0]) == pytest.approx(25 / 1024, rel=0.2)


def test_the_share_of_a_mix_is_drawn_by_seed_epoch_and_step():
    x, y = torch.rand(4, 1, 6, 6), torch.arange(4)

    def share(step: int, epoch: int = 0, seed: int = 0) -> float:
        return float(changes(epoch, 4, seed, mixup=1.0).mixed(x, y, 4, step)[1][0, 0])

    shares = [share(step) for step in range(400)]
    assert share(3) == shares[3] != share(3, epoch=1) != share(3, seed=1)
    assert np.mean(shares) == pytest.approx(0.5, abs=4 / 12**0.5 / 20) and np.std(shares) == pytest.approx(
        12**-0.5, abs=0.04
    )
    low = [float(changes(0, 4, 0, mixup=0.2).mixed(x, y, 4, step)[1][0, 0]) for step in range(400)]
    assert np.var(low) == pytest.approx(1 / (4 * 1.4), abs=0.03)  # Beta(α, α): 1 / (4 (2 α + 1))


def test_mixup_and_cutmix_take_turns_by_chance():
    x, y = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 10, 10), torch.arange(4)
    both = [changes(0, 4, 0, mixup=1.0, cutmix=1.0).mixed(x, y, 4, step)[0][0] for step in range(300)]
    blended = sum(bool(((image % 3) != 0).any()) for image in both)
    assert abs(blended - 150) < 4 * 75**0.5
