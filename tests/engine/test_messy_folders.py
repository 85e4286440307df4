"""Folders as people have them: hidden files, links, empty classes, one folder too high; labels that are no numbers of
classes."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from engine.pictures import encoded, one_line, picture, write_table

from prunus.engine.data import load
from prunus.engine.task import Classification
from prunus.errors import DataError, ExampleError


def save(path, value: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(value).save(path)


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate("ab"):
        for part in ("train", "test"):
            save(tmp_path / "set" / part / name / "1.PNG", 10 * i)
    return tmp_path / "set"


def test_what_is_hidden_is_no_class_and_no_image(root):
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/a/1.png", "a/._1.png", "a/.cache/1.png"):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).write_bytes(b"\0\5\x16\7")
    for name in (".DS_Store", "train/Thumbs.db", "train/a/.DS_Store"):
        (root / name).write_bytes(b"")
    data = load(str(root))
    assert data.class_names == ("a", "b") and data.train.labels.tolist() == [0, 1]


def test_links_are_followed_and_one_that_leads_nowhere_is_named(root, tmp_path):
    save(tmp_path / "away" / "deep" / "2.png", 50)
    (root / "train" / "a" / "more").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "circle").symlink_to(tmp_path / "away")
    assert sorted(load(str(root)).train.images[:, 0, 0, 0].tolist()) == [0, 10, 50]
    (root / "train" / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png is not an image that can be decoded: .*leads nowhere") as error:
        load(str(root))
    one_line(error)
    with pytest.warns(UserWarning, match=r"1 image .*gone\.png"):
        assert len(load(str(root), skip_bad=True).train) == 3


def test_a_class_without_images_is_told(root):
    (root / "train" / "aa").mkdir()
    with pytest.warns(UserWarning, match="no images in aa: no class of that name"):
        assert load(str(root)).class_names == ("a", "b")


@pytest.mark.parametrize("below", ["", "train"])
def test_one_folder_too_high_is_refused(root, tmp_path, below):
    (tmp_path / "top" / below).mkdir(parents=True)
    (root / "train").rename(tmp_path / "top" / below / "images")
    with pytest.raises(DataError, match=r"holds one class, 'images', with the folders a, b; give .*images$") as error:
        load(str(tmp_path / "top"))
    one_line(error)


def test_one_class_with_folders_of_its_own_is_data(tmp_path):
    for name in ("1.png", "day/2.png", "night/3.png"):
        save(tmp_path / "only" / name, 20)
    assert load(str(tmp_path)).classes == 1
    with pytest.raises(ExampleError, match="one score"):
        Classification().loss(torch.zeros(2, 1), (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))


def test_labels_that_are_no_numbering(tmp_path):
    x = np.zeros((6, 4, 4), np.uint8)
    np.savez(tmp_path / "far.npz", images=x, labels=np.array([0, 5000] * 3))
    with pytest.raises(DataError, match=r"labels up to 5000 for 6 images; number the classes 0, 1, 2"):
        load(str(tmp_path / "far.npz"))
    np.savez(tmp_path / "one.npz", images=x, labels=np.array([1, 2] * 3))
    with pytest.warns(UserWarning, match="the smallest label is 1; .* the network gets 3 of them"):
        assert load(str(tmp_path / "one.npz")).classes == 3


def test_files_that_name_the_classes_otherwise(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded(1)] * 2, [0, 1], names=["cat", "dog"])
    write_table(tmp_path / "test.parquet", [encoded(1)] * 2, [0, 1], names=["dog", "cat"])
    with pytest.raises(DataError, match=r"number the classes otherwise: cat, dog and dog, cat"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.large_string()),
        pa.array([False, True]),
        pa.array([0, 1], pa.uint8()),
    ],
)
def test_labels_as_other_programs_write_them(tmp_path, labels):
    write_table(tmp_path / "train.parquet", [encoded(1), encoded(2)], labels)
    assert load(str(tmp_path)).train.labels.tolist() == [0, 1]


def test_tables_that_do_not_go_together(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded(1)] * 2, [0, 1])
    write_table(tmp_path / "more.parquet", [encoded(1)] * 2, [0, 1])
    with pytest.warns(UserWarning, match=r"more\.parquet names no part, .* left out"):
        assert len(load(str(tmp_path)).train) == 2
    (tmp_path / "more.parquet").unlink()
    write_table(tmp_path / "test.parquet", [encoded(1)] * 2, ["0", "1"])
    with pytest.raises(DataError, match=r"train\.parquet has labels of type int, and .*test\.parquet of type str") as e:
        load(str(tmp_path))
    one_line(e)


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((float("nan"),), (1.0,), "mean=.* finite"),
        ((0.5,), (float("inf"),), "std=.* finite"),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "divide mean and std by 255"),
    ],
)
def test_means_that_would_not_normalise(root, mean, std, says):
    with pytest.raises(DataError, match=says):
        load(str(root), mean=mean, std=std)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_this_folder(name):
    with pytest.raises(DataError, match="the data has no name"):
        load(name)


def test_files_that_are_no_npz(tmp_path):
    np.savez(tmp_path / "empty.npz", images=np.zeros((0, 4, 4), np.uint8), labels=np.zeros(0, int))
    (tmp_path / "zero.npz").write_bytes(b"")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    rng = np.random.RandomState(0)
    np.savez_compressed(tmp_path / "torn.npz", images=rng.randint(0, 255, (9, 8, 8)).astype(np.uint8), labels=[0] * 9)
    whole = (tmp_path / "torn.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[:200] + b"\xff" * 60 + whole[260:])
    for name, says in (
        ("empty", "no train or test"),
        ("zero", "readable"),
        ("array", "no arrays"),
        ("torn", "readable"),
    ):
        with pytest.raises(DataError, match=says) as error:
            load(str(tmp_path / f"{name}.npz"))
        one_line(error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 'train', 'test'", "gave str for a part"),
        ("return (b for b in ()), []", "gave generator for a part; .* again and again"),
        ("raise SystemExit('bye')", r"mine\.py ends the program \(sys.exit, 'bye'\)"),
    ],
)
def test_factories_that_give_no_data(tmp_path, body, says):
    (tmp_path / "mine.py").write_text(f"def make():\n    {body}\n")
    with pytest.raises(ValueError, match=says) as error:  # all input errors are
        load(f"{tmp_path}/mine.py:make")
    one_line(error)


def test_batches_that_hold_no_tensors_are_named(tmp_path):
    (tmp_path / "mine.py").write_text("def make():\n    return [{'x': 1}], [{'x': 1}]\n")
    with pytest.raises(DataError, match="gives batches of type dict"):
        load(f"{tmp_path}/mine.py:make").example()


@pytest.mark.parametrize("part", ["test", "train"])
def test_a_class_that_is_called_like_a_part_is_told_of(tmp_path, part):
    for name in (part, "cats", "dogs"):
        save(tmp_path / name / "1.png", 10)
    with pytest.raises(DataError, match=f"{part}/, named as a part of the data, and images in cats, dogs beside it"):
        load(str(tmp_path))


def test_classes_beside_a_test_part_are_told_of(tmp_path):
    for name in ("test/cats", "test/dogs", "cats", "dogs"):
        save(tmp_path / name / "1.png", 10)
    with pytest.raises(DataError, match="images in cats, dogs beside it: put the classes below train/"):
        load(str(tmp_path))


def test_a_third_part_is_for_validation(root, tmp_path):
    save(root / "val" / "b" / "1.png", 77)
    data = load(str(root))
    assert data.validation.labels.tolist() == [1] and int(data.validation.images.max()) == 77
    assert data.test.labels.tolist() == [0, 1]
    assert load(str(root), only="test", mean=(0.5,), std=(0.5,)).validation is None
    arrays = {f"{x}_{part}": np.zeros((n, 4, 4) if x == "x" else n, np.uint8) for part, n in SIZES for x in "xy"}
    np.savez(tmp_path / "set.npz", **arrays)
    data = load(str(tmp_path / "set.npz"))
    assert [len(part) for part in (data.train, data.test, data.validation)] == [5, 3, 2]
    for part, n in SIZES:
        write_table(tmp_path / "tables" / f"{part}-0000.parquet", [encoded(9)] * n, [0] * n)
    data = load(str(tmp_path / "tables"))
    assert [len(part) for part in (data.train, data.test, data.validation)] == [5, 3, 2]


SIZES = (("train", 5), ("test", 3), ("val", 2))
