"""Images that stay in their files: the same pixels, order and augmentation as from memory, whatever decodes them."""

import math
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.pictures import encoded, one_line, write_table
from PIL import Image

from prunus.engine.changes import uniforms
from prunus.engine.config import Augment
from prunus.engine.data import Split, Stream, batches, load, with_validation
from prunus.engine.stream import DRAWS, random_box
from prunus.errors import DataError, ProcessError


def jpeg(path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = np.random.RandomState(seed).randint(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        jpeg(root / "train" / "abc"[i % 3] / f"{i}.jpg", i, (40 + i, 30))
    for i in range(7):
        jpeg(root / "test" / "abc"[i % 3] / f"{i}.jpg", 100 + i, (30, 36))
    return root


def streamed(root, **settings) -> object:
    return load(str(root), resize=(28, 24), stream=True, **{"workers": 0, **settings})


def all_of(feed) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*feed, strict=True)
    return torch.cat(xs), torch.cat(ys)


SCALES = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_measured_is_what_memory_would_hold(folder, workers):
    held, stream = load(str(folder), resize=(28, 24)), streamed(folder, workers=workers)
    assert isinstance(stream.train, Stream) and isinstance(held.train, Split)
    assert stream.train.shape == (3, 24, 24) and len(stream.test) == 7
    assert stream.mean == held.mean and stream.std == held.std, "a small set is its own sample"
    for part in ("train", "test"):
        a = all_of(batches(getattr(held, part), batch_size=5, **SCALES))
        b = all_of(batches(getattr(stream, part), batch_size=5, **SCALES))
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert torch.equal(stream.example(2), held.example(2))


def test_training_depends_on_seed_epoch_and_position_alone(folder):
    augment = Augment(flip=True, crop=2, policy="randaugment", scale=0.3)
    settings = {"shuffle": True, "seed": 7, "augment": augment, **SCALES}
    train = streamed(folder).train
    x, y = all_of(batches(train, batch_size=24, **settings))
    feed = batches(train, batch_size=5, workers=2, **settings)
    again = all_of(feed)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    feed.set_epoch(1)
    other = all_of(feed)
    assert not torch.equal(other[1], y) and sorted(other[1].tolist()) == sorted(y.tolist())
    feed.start_at(3)
    late = all_of(feed)
    assert torch.equal(late[0], other[0][15:])
    feed.set_epoch(0)
    next(iter(feed))  # left in the middle
    assert torch.equal(all_of(feed)[0], x)
    two = [list(batches(train, batch_size=6, shares=(k, 1, 2), **settings)) for k in range(2)]
    pieces = [two[k][step][0][0] for step in range(4) for k in range(2)]
    assert torch.equal(torch.cat(pieces), x)


def test_scale_one_is_the_centre(folder):
    train = streamed(folder).train
    plain = all_of(batches(train, batch_size=8, **SCALES))[0]
    assert torch.equal(plain, all_of(batches(train, batch_size=8, augment=Augment(scale=1.0), **SCALES))[0])
    assert not torch.equal(plain, all_of(batches(train, batch_size=8, augment=Augment(), **SCALES))[0])


def test_half_of_the_images_are_mirrored(folder):
    train = streamed(folder).train
    plain, mirrored = (
        all_of(batches(train, batch_size=8, augment=Augment(scale=0.5, flip=flip), **SCALES))[0]
        for flip in (False, True)
    )
    turned = [torch.equal(m, p.flip(2)) for m, p in zip(mirrored, plain, strict=True)]
    same = [torch.equal(m, p) for m, p in zip(mirrored, plain, strict=True)]
    assert sum(turned) + sum(same) == 24 and 5 < sum(turned) < 19


def test_a_crop_is_torchvisions_resized_crop_of_the_same_box(folder):
    import torchvision.transforms.v2.functional as TF

    train = streamed(folder).train
    x = next(iter(batches(train, batch_size=24, mean=(0.0,) * 3, std=(1.0,) * 3, augment=Augment(scale=0.2), seed=5)))[
        0
    ]
    drawn = torch.rand(24, DRAWS, generator=uniforms(5, 0, 7))
    for n in (0, 9, 23):
        image = torch.from_numpy(np.array(Image.open(train.where(n)))).permute(2, 0, 1)
        box = random_box(drawn[n].tolist(), *image.shape[1:], 0.2)
        want = TF.resized_crop(image, *box, [24, 24], antialias=True)
        assert ((x[n] * 255).round().int() - want.int()).abs().max() <= 1


def test_boxes_are_drawn_as_torchvision_draws_them():
    from torchvision.transforms import RandomResizedCrop

    boxes = np.array([random_box(d, 300, 400, 0.25) for d in np.random.RandomState(0).random_sample((3000, 22))])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 300).all() and (left + w <= 400).all()
    area = h * w / 120000
    assert area.min() > 0.24 and area.max() <= 1 and abs(np.log(w / h)).max() < math.log(4 / 3) + 0.02
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, 300, 400)
        theirs = np.array([RandomResizedCrop.get_params(image, (0.25, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    for mine, other in zip((top, left, h, w, area), (*theirs.T, theirs[:, 2] * theirs[:, 3] / 120000), strict=True):
        assert abs(mine.mean() - other.mean()) < 4 * other.std() * (2 / 3000) ** 0.5
        assert np.std(mine) == pytest.approx(np.std(other), rel=0.1)
    assert (top == 0).any() and (top + h == 300).any() and (left + w == 400).any()
    assert random_box([0.999] * 22, 10, 400, 1.0) == (0, 193, 10, 13), "no try fits: the centre, at 4:3"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_parquet_folder_streams_and_names_its_rows(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "tables"
    write_table(root / "train-0.parquet", [encoded(v) for v in (10, 20, 30)], [0, 1, 1], names=["x", "y"])
    write_table(root / "train-1.parquet", [encoded(40), encoded(50)], [0, 1], names=["x", "y"])
    write_table(root / "test.parquet", [encoded(60)], [1], names=["x", "y"])
    data = load(str(root), stream=True, workers=workers)
    assert isinstance(data.train, Stream) and data.class_names == ("x", "y") and data.train.shape == (3, 4, 6)
    feed = batches(data.train, batch_size=2, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    assert all_of(feed)[0][:, 0, 0, 0].round().tolist() == [10, 20, 30, 40, 50]
    assert data.train.where(4).endswith("train-1.parquet row 1")
    assert pickle.loads(pickle.dumps(data.train.items))[3] == encoded(40), "for workers that are not forked"


def test_a_set_that_would_fill_the_memory_streams_by_itself(folder, monkeypatch):
    needs = 31 * 3 * 24 * 24
    monkeypatch.setattr("prunus.engine.listing.memory", lambda: 4 * needs - 1)
    assert isinstance(load(str(folder), resize=(28, 24), workers=0).train, Stream)
    monkeypatch.setattr("prunus.engine.listing.memory", lambda: 4 * needs)
    assert isinstance(load(str(folder), resize=(28, 24)).train, Split)


def test_a_validation_part_of_a_stream(folder):
    data = with_validation(streamed(folder), 0.25, seed=1)
    held = with_validation(load(str(folder), resize=(28, 24)), 0.25, seed=1)
    assert isinstance(data.validation, Stream) and torch.bincount(data.validation.labels).tolist() == [2, 2, 2]
    assert len(data.train) == 18
    for part in ("train", "validation"):
        pixels = getattr(data, part).images(torch.arange(len(getattr(data, part))))
        assert torch.equal(pixels, getattr(held, part).images)


# Faults


def broken(tmp_path, train: int = 6) -> object:
    for i in range(train):
        jpeg(tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg", i, (20, 20))
    jpeg(tmp_path / "test" / "a" / "t.jpg", 50, (20, 20))
    bad = tmp_path / "train" / "a" / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named(tmp_path, workers):
    root = broken(tmp_path)
    data = load(str(root), stream=True, workers=workers, **SCALES)
    with pytest.raises(DataError, match=r"2\.jpg is not an image that can be decoded") as error:
        list(batches(data.train, batch_size=2, **SCALES))
    one_line(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_it_is_skipped_and_counted_where_asked(tmp_path, workers):
    data = load(str(broken(tmp_path)), stream=True, skip_bad=True, workers=workers, **SCALES)
    measured = batches(data.train, batch_size=2, **SCALES)
    with pytest.warns(UserWarning, match=r"1 image that does not decode is skipped: .*2\.jpg"):
        y = all_of(measured)[1]
    assert y.tolist() == [0, 0, 1, 1, 1] and len(data.train.skipped) == 1
    settings = {"shuffle": True, "seed": 1, "augment": Augment(scale=0.5), **SCALES}
    x, y = all_of(batches(data.train, batch_size=6, **settings))
    assert len(y) == 6
    again = all_of(batches(data.train, batch_size=4, **settings))
    assert torch.equal(x, again[0]) and torch.equal(y, again[1]), "what stands in does not depend on the batches"


def test_images_of_other_sizes_need_a_resize(tmp_path):
    jpeg(tmp_path / "a" / "1.jpg", 1)
    jpeg(tmp_path / "a" / "2.jpg", 2, (41, 30))
    data = load(str(tmp_path), stream=True, workers=0, only="train", **SCALES)
    both = Stream(data.train.items, torch.zeros(2, dtype=torch.int64), data.train.where, data.train.shape, workers=0)
    with pytest.raises(DataError, match=r"2\.jpg is 41x30 .* and others are 40x30 .*; pass resize="):
        list(batches(both, batch_size=2, **SCALES))


CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")


def children() -> list[int]:
    return [int(word) for word in CHILDREN.read_text("ascii").split()]


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs Linux's /proc")
def test_a_killed_worker_is_an_error_that_says_so(folder):
    train = streamed(folder).train
    before = set(children())
    feed = iter(batches(train, batch_size=1, workers=1, **SCALES))
    next(feed)
    (worker,) = set(children()) - before
    with pytest.raises(ProcessError, match="a process that decodes images has ended: it was killed") as error:
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.5)  # as while a step is computed
        list(feed)
    one_line(error)


@pytest.mark.parametrize("settings", [{"stream": True}, {"skip_bad": True}])
def test_what_has_no_files_cannot_stream(settings):
    with pytest.raises(DataError, match="digits is not read from files of images"):
        load("digits", **settings)
