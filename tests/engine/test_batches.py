"""Batches held in memory: against torchvision one image at a time, and reproducible whatever the batch size."""

import pytest
import torch
import torchvision.transforms.functional as TF

from prunus.engine.augment import crop, flip, normalise
from prunus.engine.config import Augment
from prunus.engine.data import Split, batches, holdout
from prunus.engine.split import channel_stats, stratified
from prunus.errors import DataError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(n: int = 24, size: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def split(n: int = 24) -> Split:
    return Split(images(n), torch.arange(n))


def all_of(feed) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*feed, strict=True)
    return torch.cat(xs), torch.cat(ys)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crop_is_torchvisions_pad_and_crop(layout):
    x = images().contiguous(memory_format=layout)
    top, left = torch.randint(0, 7, (2, len(x)), generator=torch.Generator().manual_seed(1))
    top[0], left[0], top[1], left[1] = 0, 6, 6, 0
    cut = crop(x, top, left, 3)
    for i, image in enumerate(x):
        assert torch.equal(cut[i], TF.crop(TF.pad(image, [3]), int(top[i]), int(left[i]), 9, 9))


def test_flip_is_torchvisions_hflip_of_the_chosen():
    x, chosen = images(4), torch.tensor([True, False, False, True])
    assert torch.equal(flip(x, chosen), torch.stack([TF.hflip(x[0]), x[1], x[2], TF.hflip(x[3])]))


def test_normalise_is_torchvisions_bit_for_bit():
    x = images()
    want = torch.stack([TF.normalize(image.float() / 255, MEAN, STD) for image in x])
    assert torch.equal(normalise(x, MEAN, STD), want)


def test_plain_batches_are_the_split_in_order():
    data = split(10)
    feed = batches(data, batch_size=4, mean=MEAN, std=STD)
    assert [len(y) for _, y in feed] == [4, 4, 2] and len(feed) == 3
    x, y = all_of(feed)
    assert torch.equal(x, normalise(data.images, MEAN, STD)) and torch.equal(y, data.labels)
    assert len(batches(data, batch_size=4, mean=MEAN, std=STD, drop_last=True)) == 2


def test_augmentation_depends_on_seed_epoch_and_position_not_on_batch_size():
    settings = {"mean": MEAN, "std": STD, "shuffle": True, "augment": Augment(crop=2, flip=True), "seed": 5}
    small, large = batches(split(), batch_size=5, **settings), batches(split(), batch_size=16, **settings)
    (x, y), (x16, y16) = all_of(small), all_of(large)
    assert torch.equal(x, x16) and torch.equal(y, y16) and sorted(y.tolist()) == list(range(24))
    assert torch.equal(x, all_of(small)[0]), "the same epoch again"
    small.set_epoch(1)
    assert not torch.equal(y, all_of(small)[1])
    small.set_epoch(0)
    assert torch.equal(x, all_of(small)[0])


def test_seed_one_epoch_zero_is_not_seed_zero_epoch_one():
    a = batches(split(), batch_size=24, mean=MEAN, std=STD, shuffle=True, seed=0)
    b = batches(split(), batch_size=24, mean=MEAN, std=STD, shuffle=True, seed=1)
    a.set_epoch(1)
    assert not torch.equal(all_of(a)[1], all_of(b)[1])


def test_crops_reach_every_offset_evenly_and_half_is_mirrored():
    # One bright pixel on the left edge of a 1-row image tells the offset; 0 where it was cut away.
    n = 4000
    x = torch.zeros(n, 1, 1, 9, dtype=torch.uint8)
    x[:, :, :, 4] = 255
    feed = batches(
        Split(x, torch.zeros(n, dtype=torch.int64)), batch_size=n, mean=(0.0,), std=(1.0,), augment=Augment(crop=2)
    )
    columns = all_of(feed)[0].sum(dim=(1, 2)).argmax(dim=1)
    rows_kept = all_of(feed)[0].sum(dim=(1, 2, 3)) > 0
    assert abs(int(rows_kept.sum()) - n / 5) < 4 * (n * 0.16) ** 0.5  # one of the five row offsets shows the row
    counts = torch.bincount(columns[rows_kept], minlength=9)
    assert counts[:2].sum() == counts[7:].sum() == 0 and (counts[2:7] > 100).all()
    x[:, :, :, 0] = 255
    x[:, :, :, 4] = 0
    feed = batches(
        Split(x, torch.zeros(n, dtype=torch.int64)), batch_size=n, mean=(0.0,), std=(1.0,), augment=Augment(flip=True)
    )
    mirrored = int(all_of(feed)[0][:, 0, 0, 8].sum())
    assert abs(mirrored - n / 2) < 4 * (n / 4) ** 0.5


def test_channels_last_is_the_same_numbers_in_another_layout():
    a = next(iter(batches(split(), batch_size=8, mean=MEAN, std=STD)))[0]
    b = next(iter(batches(split(), batch_size=8, mean=MEAN, std=STD, channels_last=True)))[0]
    assert torch.equal(a, b) and b.is_contiguous(memory_format=torch.channels_last) and not b.is_contiguous()


def test_channel_stats_are_those_of_the_pixels():
    x = images(50)
    mean, std = channel_stats(x)
    pixels = x.double().div(255).transpose(0, 1).reshape(3, -1)
    assert mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-12)
    assert std == pytest.approx(pixels.std(1, correction=0).tolist(), abs=1e-12)
    assert channel_stats(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1.0,))


def test_stratified_holds_out_the_same_share_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    rest, held = stratified(labels, 0.2, seed=3)
    assert torch.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted(rest.tolist() + held.tolist()) == list(range(63))
    assert torch.equal(held, stratified(labels, 0.2, seed=3)[1])
    assert not torch.equal(held, stratified(labels, 0.2, seed=4)[1])


def test_holdout_divides_images_with_their_labels():
    data = Split(images(20), torch.arange(20) % 2)
    rest, held = holdout(data, 0.3)
    assert (len(rest), len(held)) == (14, 6) and held.labels.sum() == 3
    whole = {image.numpy().tobytes(): int(label) for image, label in zip(data.images, data.labels, strict=True)}
    assert all(whole[image.numpy().tobytes()] == label for image, label in zip(held.images, held.labels, strict=True))


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"int64 \(2,\)"),
    ],
)
def test_a_split_refuses_other_tensors(x, y, says):
    with pytest.raises(DataError, match=says):
        Split(x, y)


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(DataError, match="batch_size=0"):
        batches(split(), batch_size=0, mean=MEAN, std=STD)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_gives_the_same_bits_in_either_layout_and_keeps_it(channels):
    x = images()[:, :channels]
    turned = x.contiguous(memory_format=torch.channels_last)
    got = normalise(turned, MEAN[:channels], STD[:channels])
    assert torch.equal(got, normalise(x.contiguous(), MEAN[:channels], STD[:channels]))
    assert got.is_contiguous(memory_format=torch.channels_last)
