"""RandAugment and AutoAugment: torchvision's operations and magnitudes, grouped over a batch, drawn evenly."""

from collections import Counter

import pytest
import torch
from torchvision.transforms import autoaugment as theirs

from prunus.engine.policies import BINS, CIFAR10, OPERATIONS, RANDAUGMENT, autoaugment, levels, randaugment

NAMES = dict(
    zip(
        OPERATIONS,
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize "
        "AutoContrast Equalize Invert".split(),
        strict=True,
    )
)


def images(n: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, 32, 32), dtype=torch.uint8, generator=g)


def test_operations_and_magnitudes_are_torchvisions():
    space = theirs.RandAugment()._augmentation_space(BINS, (32, 24))
    assert [NAMES[name] for name in RANDAUGMENT] == list(space)
    for name in RANDAUGMENT:
        wanted, signed = space[NAMES[name]]
        assert OPERATIONS[name][1] is signed
        assert torch.equal(levels(name, BINS, (32, 24)), wanted.float().expand(BINS))


def test_the_cifar10_policy_is_the_published_one():
    wanted = theirs.AutoAugment(theirs.AutoAugmentPolicy.CIFAR10).policies
    assert tuple(tuple((NAMES[name], *rest) for name, *rest in pair) for pair in CIFAR10) == tuple(wanted)


def one(image: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    return theirs._apply_op(image, NAMES[name], amount, theirs.InterpolationMode.NEAREST, None)


def assert_close(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    apart = (got.int() - want.int()).abs()
    assert (apart > 1).float().mean() < 0.02, what


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_torchvisions_operations_one_after_the_other(channels):
    n = len(RANDAUGMENT)
    x = images(n, channels)
    first = (torch.arange(n) + 0.5) / n
    draws = torch.stack([torch.stack([first, torch.full((n,), 0.2)], 1), torch.stack([first.flip(0)] * 2, 1)], 1)
    got = randaugment(x, draws, 9)
    for i in range(n):
        a, b = RANDAUGMENT[i], RANDAUGMENT[n - 1 - i]
        m, k = (float(levels(name, BINS, (32, 32))[9]) for name in (a, b))
        minus = float(first[n - 1 - i]) < 0.5
        want = one(x[i], a, -m if OPERATIONS[a][1] else m)
        want = one(want, b, -k if OPERATIONS[b][1] and minus else k)
        if {a, b} & {"equalize", "autocontrast"}:  # they spread a level that rounding moved
            assert (got[i] != want).float().mean() < 0.1, (a, b)
        else:
            assert_close(got[i], want, f"{a} then {b}")


def test_autoaugment_is_both_operations_of_a_pair_by_chance():
    x = images(4 * len(CIFAR10))
    policy = torch.arange(len(x)) % len(CIFAR10)
    chance = torch.rand(len(x), 2, generator=torch.Generator().manual_seed(1))
    draws = torch.cat([(policy[:, None] + 0.5) / len(CIFAR10), chance, torch.full((len(x), 2), 0.9)], 1)
    got = autoaugment(x, draws)
    done: Counter[bool] = Counter()
    for i in range(len(x)):
        want = x[i]
        for (name, probability, magnitude), drawn in zip(CIFAR10[int(policy[i])], chance[i].tolist(), strict=True):
            if drawn < probability:
                want = one(want, name, float(levels(name, 10, (32, 32))[magnitude or 0]))
            done[drawn < probability] += 1
        assert (got[i] != want).float().mean() < 0.1, CIFAR10[int(policy[i])]
    assert min(done.values()) > 30


def test_every_operation_is_drawn_alike():
    n = 28000
    x = torch.full((n, 1, 3, 3), 100, dtype=torch.uint8)
    x[:, :, 0, 0] = 40
    draws = torch.rand(n, 1, 2, generator=torch.Generator().manual_seed(0))
    got = randaugment(x, draws, 30).flatten(1)
    kinds = Counter(tuple(row) for row in got.tolist())
    # At full strength: solarize inverts everything, and nothing else gives these levels.
    assert abs(kinds[tuple((255 - x[0]).flatten().tolist())] - n / 14) < 4 * (n / 14) ** 0.5


def test_the_rest_of_the_batch_makes_no_difference():
    x, draws = images(30), torch.rand(30, 2, 2, generator=torch.Generator().manual_seed(2))
    whole = randaugment(x, draws, 12)
    assert torch.equal(whole, torch.cat([randaugment(x[a : a + 7], draws[a : a + 7], 12) for a in range(0, 30, 7)]))
    drawn = torch.rand(30, 5, generator=torch.Generator().manual_seed(3))
    whole = autoaugment(x, drawn)
    assert torch.equal(whole, torch.cat([autoaugment(x[a : a + 7], drawn[a : a + 7]) for a in range(0, 30, 7)]))
