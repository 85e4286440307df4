"""Digits, folders of images, arrays, factories; and the one clear line for each that cannot be read."""

import io

import numpy as np
import pytest
import torch
from engine.pictures import encoded, one_line, picture, write_table
from PIL import Image

from prunus.engine.data import load
from prunus.engine.decode import decode, resized
from prunus.errors import DataError, UnknownName

# The bundled digits


def test_digits_are_the_1797_of_the_source_in_a_fixed_division():
    data = load("digits")
    assert (len(data.train), len(data.test), data.classes) == (1438, 359, 10)
    assert data.train.images.shape[1:] == (1, 8, 8) and data.train.images.max() == 255
    both = torch.bincount(data.train.labels) + torch.bincount(data.test.labels)
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the source's description has it
    assert torch.bincount(data.test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert torch.equal(data.test.images, load("digits").test.images)
    assert data.mean == pytest.approx((data.train.images.double().mean().item() / 255,))
    assert load("digits", resize=16).test.images.shape == (359, 1, 16, 16)
    x = data.example(3)
    assert x.shape == (3, 1, 8, 8) and x.dtype == torch.float32


def test_digits_file_is_small_and_names_its_licence():
    from importlib.resources import files

    assets = files("prunus") / "assets"
    assert len((assets / "digits.npz").read_bytes()) < 200_000
    assert "CC BY 4.0" in (assets / "digits.txt").read_text()


# Folders of images


def save(path, value: int, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(value, **options).save(path)


def test_image_folder_with_train_and_val(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", 10)
    save(tmp_path / "train" / "ant" / "2.png", 20)
    save(tmp_path / "train" / "ant" / "deep" / "3.bmp", 30)
    save(tmp_path / "val" / "cat" / "4.png", 40)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    data = load(str(tmp_path))
    assert data.class_names == ("ant", "cat") and data.train.labels.tolist() == [0, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [20, 30, 10]
    assert data.test.labels.tolist() == [1] and data.test.images[0, :, 0, 0].tolist() == [40, 20, 0]


def test_flat_image_folder_is_divided_per_class(tmp_path):
    for label in ("a", "b"):
        for i in range(5):
            save(tmp_path / label / f"{i}.png", i)
    data = load(str(tmp_path))
    assert (len(data.train), len(data.test)) == (8, 2) and data.test.labels.tolist() == [0, 1]


def test_image_folder_faults(tmp_path):
    save(tmp_path / "x" / "train" / "a" / "1.png", 1)
    save(tmp_path / "x" / "test" / "b" / "1.png", 1)
    with pytest.raises(DataError, match=r"has the class 'b', which .* training images do not have"):
        load(str(tmp_path / "x"))
    (tmp_path / "y" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no parquet files and no CLASS/"):
        load(str(tmp_path / "y"))
    save(tmp_path / "z" / "a" / "1.png", 1)
    (tmp_path / "z" / "a" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png is not an image that can be decoded"):
        load(str(tmp_path / "z"))


# Decoding and resizing


def test_one_colour_image_makes_all_three_channels_and_sixteen_bits_keep_the_upper_eight():
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 6), 0x1234, dtype=np.uint16)).save(deep, "PNG")
    grey = [deep.getvalue(), encoded(7, mode="L")]
    assert decode(grey, str)[:, 0, 0, 0].tolist() == [0x12, 7]
    assert decode([*grey, encoded(8)], str)[:, :, 0, 0].tolist() == [[0x12] * 3, [7, 7, 7], [8, 4, 0]]


def test_resize_is_torchvisions_resize_and_centre_crop():
    import torchvision.transforms.v2.functional as TF

    x = torch.randint(0, 256, (3, 3, 37, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for out in (15, 16, 17):  # the rounding of the centre's corner
        assert torch.equal(resized(x, (20, out)), TF.center_crop(TF.resize(x, [20], antialias=True), [out]))
    assert resized(x, 48).shape == (3, 3, 48, 48)


def test_images_of_several_sizes_become_one(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded(8), encoded(8, size=(3, 9))], [0, 1])
    data = load(str(tmp_path), resize=(5, 4))
    assert data.train.images.shape == (2, 3, 4, 4) and data.train.images[:, 0].unique().tolist() == [8]
    with pytest.raises(DataError, match="1 <= S <= R"):
        load(str(tmp_path), resize=(4, 5))


def test_a_set_larger_than_the_memory_is_refused_before_it_fills_it(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1000, raising=False)  # 1000 pages of 1000 bytes
    with pytest.raises(DataError, match=r"20000 images of \(3, 4, 6\) need 0\.0 GB .* use a smaller resize"):
        decode([encoded(1)] * 20_000, str)


# Arrays


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_npz_in_each_layout(tmp_path, layout):
    grey = np.arange(5 * 8 * 6, dtype=np.uint8).reshape(5, 8, 6)
    x = {"NHW": grey, "NHWC": np.stack([grey] * 3, 3), "NCHW": np.stack([grey] * 3, 1)}[layout]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(5), x_test=x[:2], y_test=np.array([[4], [0]]))
    data = load(str(tmp_path / "a.npz"))
    assert data.train.images.shape == (5, 1 if layout == "NHW" else 3, 8, 6) and data.classes == 5
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(grey)) and data.test.labels.tolist() == [4, 0]


def test_npz_floats_and_division(tmp_path):
    x = np.linspace(0, 1, 10 * 16, dtype=np.float32).reshape(10, 4, 4)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(10) % 2)
    data = load(str(tmp_path / "a.npz"))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert int(data.train.images.max()) in (255, 228) and data.train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"data": np.zeros(3)}, "has data; needed: x_train"),
        ({"images": np.full((2, 4, 4), 2.0), "labels": np.zeros(2, int)}, "floats outside 0..1"),
        ({"images": np.full((2, 4, 4), 256), "labels": np.zeros(2, int)}, "must hold uint8"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "2 images and .* 3 labels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, -1])}, r"labels\[1\] has label -1"),
        ({"images": np.zeros((2, 5, 4, 4), np.uint8), "labels": np.zeros(2, int)}, r"shape \(2, 5, 4, 4\); needed"),
        ({"images": np.array([None]), "labels": np.zeros(1, int)}, "not a readable .npz"),
    ],
)
def test_npz_faults(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says) as error:
        load(str(tmp_path / "a.npz"))
    one_line(error)


# A factory, and names that mean nothing


def test_factory_of_arrays_and_of_loaders(tmp_path):
    (tmp_path / "beside.py").write_text("N = 6\n")
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "from beside import N\n"
        "def arrays():\n"
        "    x = torch.zeros(N, 3, 4, 4, dtype=torch.uint8)\n"
        "    return (x, torch.arange(N)), (x, torch.arange(N))\n"
        "def loaders():\n"
        "    loader = DataLoader(TensorDataset(torch.rand(4, 3, 8, 8), torch.arange(4)), batch_size=2)\n"
        "    return loader, loader\n"
        "def broken():\n"
        "    raise KeyError('no such thing')\n"
        "def three():\n"
        "    return 1, 2, 3\n"
    )
    data = load(f"{tmp_path}/mine.py:arrays")
    assert data.classes == 6 and len(data.train) == 6
    data = load(f"{tmp_path}/mine.py:loaders")
    assert data.classes == 0 and [len(y) for _, y in data.train] == [2, 2] and data.example().shape == (1, 3, 8, 8)
    for name, says in (
        ("mine.py:broken", "raised KeyError"),
        ("mine.py:three", "must return a Data or the pair"),
        ("mine.py:array", "did you mean 'arrays'"),
        ("yours.py:arrays", "there is no file"),
    ):
        with pytest.raises((DataError, UnknownName), match=says) as error:
            load(f"{tmp_path}/{name}")
        one_line(error)
    with pytest.raises(DataError, match="loaders, which resize and normalise themselves"):
        load(f"{tmp_path}/mine.py:loaders", mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digit", "unknown data 'digit'; did you mean 'digits'"),
        ("./nowhere/at/all", "does not exist"),
        ("/nowhere", "does not exist"),
        ("nowhere.npz", "not a readable .npz"),
    ],
)
def test_names_that_mean_nothing(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DataError, UnknownName), match=says) as error:
        load(name)
    one_line(error)


def test_a_missing_folder_beside_another_names_it(tmp_path):
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(DataError, match=r"cifar01 does not exist; did you mean .*cifar10\?"):
        load(str(tmp_path / "cifar01"))
