"""The shares of a feed, where it starts, and that everything drawn depends on seed, epoch and position alone."""

import pytest
import torch

from prunus.engine.config import Augment
from prunus.engine.data import Split, batches
from prunus.errors import DataError

FULL = Augment(crop=2, flip=True, policy="randaugment", jitter=0.3, cutout=4)
POLICY = Augment(crop=1, policy="autoaugment", cutout=3)


def split(n: int = 50, channels: int = 3) -> Split:
    g = torch.Generator().manual_seed(0)
    return Split(torch.randint(0, 256, (n, channels, 12, 12), dtype=torch.uint8, generator=g), torch.arange(n))


def feed(part: Split | None = None, size: int = 16, **settings):
    settings = {"shuffle": True, "seed": 3, "augment": FULL, **settings}
    part = part or split()
    c = part.images.shape[1]
    return batches(part, batch_size=size, mean=(0.5,) * c, std=(0.25,) * c, **settings)


def joined(steps) -> tuple[torch.Tensor, torch.Tensor]:
    steps = [step if isinstance(step, list) else [step] for step in steps]
    return tuple(torch.cat([batch[k] for step in steps for batch in step]) for k in (0, 1))


@pytest.mark.parametrize("augment", [FULL, POLICY])
@pytest.mark.parametrize("channels", [1, 3])
def test_batch_size_and_division_make_no_difference(augment, channels):
    part = split(48, channels)
    x, y = joined(feed(part, 48, augment=augment))
    assert not torch.equal(x, joined(feed(part, 48, augment=None))[0])
    for settings in ({"size": 7}, {"size": 16, "shares": (0, 3, 3)}):
        again = joined(feed(part, augment=augment, **settings))
        n = len(again[1])
        assert torch.equal(again[0], x[:n]) and torch.equal(again[1], y[:n]) and n >= 48


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_processes_have_the_parts_of_tensor_split(of):
    whole = list(feed(split(50), 16))
    mine = [list(feed(split(50), 16, shares=(k, 1, of))) for k in range(of)]
    kept = 4 if 2 * of <= 50 % 16 else 3
    assert all(len(steps) == kept == len(feed(split(50), 16, shares=(0, 1, of))) for steps in mine)
    for step in range(kept):
        pieces = torch.tensor_split(whole[step][0], of)
        assert all(torch.equal(mine[k][step][0][0], pieces[k]) for k in range(of))
        assert feed(split(50), 16).total(step) == len(whole[step][1])


def test_one_process_that_accumulates_has_what_two_have():
    alone = list(feed(shares=(0, 4, 4)))
    two = [list(feed(shares=(k, 2, 4))) for k in (0, 2)]
    for step, parts in enumerate(alone):
        assert len(parts) == 4
        for got, want in zip([*two[0][step], *two[1][step]], parts, strict=True):
            assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize(("n", "of", "steps"), [(33, 1, 2), (34, 1, 3), (35, 2, 2), (36, 2, 3), (1, 1, 0), (32, 2, 2)])
def test_a_last_batch_too_small_for_batch_norm_is_left_out(n, of, steps):
    assert len(feed(split(n), shares=(0, of, of))) == steps == len(list(feed(split(n), shares=(0, of, of))))


def test_what_is_measured_is_complete():
    assert len(joined(feed(split(33), augment=None, shuffle=False))[1]) == 33


@pytest.mark.parametrize("settings", [{}, {"shares": (0, 2, 2)}, {"augment": Augment(mixup=0.4, cutmix=1.0)}])
def test_a_feed_that_starts_later_goes_on_alike(settings):
    whole, late = feed(**settings), feed(**settings)
    for epoch, step in ((0, 2), (1, 1), (1, 0)):
        whole.set_epoch(epoch)
        late.set_epoch(epoch)
        late.start_at(step)
        a, b = list(whole)[step:], list(late)
        assert len(a) == len(b) and all(torch.equal(p, q) for p, q in zip(joined(a), joined(b), strict=True))
        assert len(list(late)) == len(whole), "once only"
    with pytest.raises(DataError, match="no step 9 in an epoch of"):
        late.start_at(9)


def test_mixed_labels_are_probabilities_and_a_share_is_mixed_within_itself():
    part = Split(split(48).images, torch.arange(48) % 10)
    mixing = Augment(mixup=0.3, cutmix=0.5)
    for x, y in feed(part, augment=mixing, classes=12):
        assert y.shape == (16, 12) and torch.allclose(y.sum(1), torch.ones(16)) and x.dtype == torch.float32
    plain = feed(part, augment=Augment(), shares=(0, 2, 2))
    mixed = feed(part, augment=Augment(mixup=1.0), shares=(0, 2, 2))
    for before, after in zip(plain, mixed, strict=True):
        shares = []
        for (x, y), (mixed_x, mixed_y) in zip(before, after, strict=True):
            share = float(((mixed_x[0] - x[-1]) / (x[0] - x[-1] + 1e-9)).median())
            torch.testing.assert_close(mixed_x, share * x + (1 - share) * x.flip(0), atol=1e-4, rtol=0)
            want = torch.nn.functional.one_hot(y, 10).float()
            torch.testing.assert_close(mixed_y, share * want + (1 - share) * want.flip(0), atol=1e-4, rtol=0)
            shares.append(share)
        assert shares[0] == pytest.approx(shares[1], abs=1e-4), "one draw a step"


def test_epochs_and_seeds_differ():
    first, other = feed(), feed(seed=4)
    x = joined(first)[0]
    assert not torch.equal(x, joined(other)[0])
    first.set_epoch(1)
    assert not torch.equal(x, joined(first)[0])


@pytest.mark.parametrize("shares", [(0, 1, 17), (1, 2, 2), (0, 0, 1), (-1, 1, 1)])
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(DataError, match="must be \\(first, count, of\\)"):
        feed(shares=shares)
