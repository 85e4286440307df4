"""What is wrong with the data is said by name; images are left out only where that is asked for. Validation parts."""

import numpy as np
import pytest
import torch
from engine.pictures import encoded, one_line, picture, write_table

from prunus.engine.data import Data, Split, load, with_validation
from prunus.engine.split import count_labels
from prunus.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(10 * i, mode="L").save(path)
    (tmp_path / "test" / "b").mkdir(parents=True)
    picture(200, mode="L").save(tmp_path / "test" / "b" / "t.png")
    (tmp_path / "train" / "a" / "4.png").write_bytes(b"no picture")
    whole = (tmp_path / "train" / "b" / "7.png").read_bytes()
    (tmp_path / "train" / "b" / "7.png").write_bytes(whole[: len(whole) - 26])
    return tmp_path


def test_an_image_that_does_not_decode_is_refused_by_name(folder):
    with pytest.raises(DataError, match=r"4\.png is not an image that can be decoded") as error:
        load(str(folder))
    one_line(error)


def test_images_are_skipped_counted_and_named_where_asked(folder):
    says = r"2 images that do not decode are skipped: .*train/a/4\.png, .*train/b/7\.png$"
    with pytest.warns(UserWarning, match=says):
        data = load(str(folder), skip_bad=True)
    assert [name.rsplit("/", 1)[1] for name in data.skipped] == ["4.png", "7.png"]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 20, 60, 80, 10, 30, 50, 90], "grey, though one has no header"
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 and data.test.images.unique().tolist() == [200]


def test_the_first_may_be_the_bad_one_and_a_hole_counts(tmp_path):
    write_table(tmp_path / "train.parquet", [b"", None, encoded(10), encoded(20)], [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"train\.parquet row 0 is not an image"):
        load(str(tmp_path))
    with pytest.warns(UserWarning, match=r"2 images .*row 0, .*row 1"):
        data = load(str(tmp_path), skip_bad=True)
    assert data.train.labels.tolist() == [0, 1] and data.train.images[:, 0, 0, 0].tolist() == [10, 20]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_place(tmp_path, bad):
    x = np.full((4, 5, 5), 0.5, dtype=np.float32)
    x[2, 1, 3] = x[3, 0, 0] = bad
    np.savez(tmp_path / "a.npz", images=x, labels=np.zeros(4, int))
    with pytest.raises(DataError, match=rf"a\.npz:images\[2\] holds {bad}; 2 of its numbers are not finite") as error:
        load(str(tmp_path / "a.npz"))
    one_line(error)


def test_labels_out_of_range_are_refused(tmp_path):
    names = ["x", "y"]
    write_table(tmp_path / "train.parquet", [encoded(1)] * 3, [0, 1, 2], names=names)
    with pytest.raises(DataError, match=r"train\.parquet row 2 has label 2, outside 0\.\.1"):
        load(str(tmp_path))
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    for labels, says in (([0, 5, 1], r"train\[1\] has label 5, outside 0\.\.2"), ([0, 1, -1], "has label -1")):
        part = Split(images, torch.tensor(labels))
        with pytest.raises(DataError, match=says):
            Data(part, Split.empty(1), 3, (0.5,), (0.5,), "mine")


def test_a_factorys_loader_is_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef make():\n    return [(torch.full((2, 1, 4, 4), float('nan')), torch.tensor([0, 99]))], []\n"
    )
    data = load(f"{tmp_path}/mine.py:make")
    assert data.classes == 0 and next(iter(data.train))[1].tolist() == [0, 99]
    with pytest.raises(DataError, match="gives loaders; a validation part"):
        load(f"{tmp_path}/mine.py:make", validation=0.1)


def test_a_validation_part_is_the_same_share_of_each_class_and_leaves_train():
    data = load("digits")
    divided = with_validation(data, 0.1, seed=3)
    assert isinstance(divided.validation, Split) and divided.test is data.test
    train, held = count_labels(divided.train, 10), count_labels(divided.validation, 10)
    assert tuple(a + b for a, b in zip(train, held, strict=True)) == count_labels(data.train)
    assert held == tuple(round(0.1 * n) for n in count_labels(data.train))
    assert torch.equal(divided.validation.images, with_validation(data, 0.1, seed=3).validation.images)
    assert not torch.equal(divided.validation.images, with_validation(data, 0.1, seed=4).validation.images)
    assert torch.equal(load("digits", validation=0.1).validation.labels, with_validation(data, 0.1).validation.labels)
    assert load("digits", validation=0.1, resize=16).validation.images.shape[2:] == (16, 16)


@pytest.mark.parametrize(("fraction", "says"), [(1.0, "fraction above 0"), (-0.1, "fraction above 0")])
def test_fractions_that_leave_nothing_are_refused(fraction, says):
    with pytest.raises(DataError, match=says):
        load("digits", validation=fraction)
    lone = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="too few images"):
        with_validation(Data(lone, lone, 2, (0.5,), (0.5,), "two"), 0.2)
