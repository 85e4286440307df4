"""Tables of images: folders written here, what `datasets` gives, and the shared sets."""

import importlib.util

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from engine.pictures import encoded, one_line, picture, write_table
from shared import SHARED, needs

from prunus.engine import parquet
from prunus.engine.data import load
from prunus.errors import DataError

# Parquet


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_parquet_folder_by_features_over_several_files(tmp_path, kind):
    names = ["cat", "dog", "eel"]
    write_table(tmp_path / "train-00000-of-00002.parquet", [encoded(v, kind) for v in (10, 20)], [0, 2], names=names)
    write_table(tmp_path / "train-00001-of-00002.parquet", [encoded(30, kind)], [1], names=names)
    write_table(tmp_path / "test-00000-of-00001.parquet", [encoded(40, kind)], [1], names=names)
    data = load(str(tmp_path))
    assert data.train.images.shape == (3, 3, 4, 6) and data.class_names == tuple(names) and data.classes == 3
    assert data.train.images[:, :, 0, 0].tolist() == [[10, 5, 0], [20, 10, 0], [30, 15, 0]]
    assert data.train.labels.tolist() == [0, 2, 1] and data.test.labels.tolist() == [1]
    assert data.mean == pytest.approx((20 / 255, 10 / 255, 0))


def test_parquet_without_features_goes_by_type_and_prefers_the_usual_name(tmp_path):
    for part in ("train", "validation"):
        write_table(tmp_path / part / "0000.parquet", [encoded(9, mode="L")] * 2, ["no", "yes"], "target", image="scan")
        table = pq.read_table(tmp_path / part / "0000.parquet")
        pq.write_table(table.append_column("patient", pa.array([7, 8])), tmp_path / part / "0000.parquet")
    data = load(str(tmp_path))
    assert data.train.images.shape == (2, 1, 4, 6), "grey images stay one channel"
    assert data.class_names == ("no", "yes") and data.test.labels.tolist() == [0, 1]


def test_parquet_without_named_parts_is_divided_per_class(tmp_path):
    write_table(tmp_path / "all.parquet", [encoded(v) for v in range(20)], [0] * 10 + [1] * 10)
    data = load(str(tmp_path))
    assert torch.bincount(data.train.labels).tolist() == [8, 8] and torch.bincount(data.test.labels).tolist() == [2, 2]


def test_only_test_leaves_the_train_images_undecoded_and_keeps_the_classes(tmp_path):
    write_table(tmp_path / "train.parquet", [b"broken"] * 3, ["a", "b", "c"])
    write_table(tmp_path / "test.parquet", [encoded(40)], ["c"])
    data = load(str(tmp_path), only="test", mean=(0.5,), std=(0.25,))
    assert len(data.train) == 0 and data.test.labels.tolist() == [2] and data.classes == 3
    assert data.mean == (0.5, 0.5, 0.5) and data.std == (0.25, 0.25, 0.25)
    with pytest.raises(DataError, match=r"train.parquet row 0 is not an image"):
        load(str(tmp_path), only="test")  # mean and std would need the train part


def test_parquet_faults_name_file_and_row(tmp_path):
    good = encoded(1)
    cases = {
        "damaged": ([good, good[:40]], [0, 1], r"test\.parquet row 1 is not an image that can be decoded"),
        "hole": ([good, None], [0, 1], r"test\.parquet row 1 holds no image"),
        "label": ([good, good, good], [0, 1, -1], r"test\.parquet row 2 has label -1, outside 0\.\.1"),
        "sizes": ([good, encoded(1, size=(5, 4))], [0, 1], r"row 1 is 5x4 .* row 0 is 6x4 .*resize="),
    }
    for name, (images, labels, says) in cases.items():
        write_table(tmp_path / name / "test.parquet", images, labels)
        with pytest.raises(DataError, match=says) as error:
            load(str(tmp_path / name), mean=(0.5,), std=(0.5,))
        one_line(error)


def test_a_label_beyond_the_class_names_is_refused(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded(1)] * 2, [0, 2], names=["a", "b"])
    with pytest.raises(DataError, match=r"train\.parquet row 1 has label 2, outside 0\.\.1"):
        load(str(tmp_path))


def test_parquet_without_images_or_readable_bytes(tmp_path):
    (tmp_path / "words").mkdir()
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "words" / "train.parquet")
    with pytest.raises(DataError, match="no image columns; its columns: text: string, label: int64"):
        load(str(tmp_path / "words"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read") as error:
        load(str(tmp_path / "torn"))
    one_line(error)


def test_a_set_without_train_part_needs_mean_and_std(tmp_path):
    write_table(tmp_path / "test.parquet", [encoded(40)], [0])
    with pytest.raises(DataError, match="no train part to compute mean and std from; pass mean= and std="):
        load(str(tmp_path))
    data = load(str(tmp_path), mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert len(data.train) == 0 and len(data.test) == 1
    with pytest.raises(DataError, match="mean has 2 numbers; the images have 3 channels"):
        load(str(tmp_path), mean=(0.1, 0.2), std=(1, 1, 1))
    with pytest.raises(DataError, match="std must be above 0"):
        load(str(tmp_path), mean=(0.1,), std=(0,))


# The hub, without a network


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the package datasets")
@pytest.mark.filterwarnings("default")
def test_hub_reads_what_datasets_gives(monkeypatch):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [picture(10), picture(20)], "label": [1, 0]}
    found = datasets.DatasetDict({key: datasets.Dataset.from_dict(rows, features) for key in ("train", "validation")})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"owner/pets": found}[name])
    data = load("owner/pets")
    assert data.class_names == ("a", "b") and data.test.labels.tolist() == [1, 0]
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 20]


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the package datasets")
@pytest.mark.filterwarnings("default")
def test_hub_offline_says_both_what_was_looked_for(monkeypatch):
    import datasets

    def offline(name):
        raise ConnectionError("Couldn't reach the hub\nmany more lines")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"no folder 'some/where' here, and the hub .* ConnectionError: Couldn't"
    ) as error:
        load("some/where")
    one_line(error)


def test_bare_names_are_looked_for_in_known_folders_then_on_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(parquet, "hub", lambda name, reading: asked.append(name) or load("digits"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNUS_DATA", raising=False)
    load("cifar10")
    assert asked == ["uoft-cs/cifar10"]
    write_table(tmp_path / "elsewhere" / "cifar10" / "train.parquet", [encoded(1)], [0])
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path / "elsewhere"))
    assert len(load("cifar10").train) == 1 and len(asked) == 1
    write_table(tmp_path / "data" / "own" / "train.parquet", [encoded(1)] * 2, [0, 0])
    assert len(load("own").train) == 2


# The shared sets


@needs("data", "cifar10")
def test_cifar10_has_ten_classes_of_5000_and_1000():
    data = load(str(SHARED / "data" / "cifar10"))
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.images.shape == (50000, 3, 32, 32) and data.class_names[0] == "airplane"
    # The constants that half the literature copies
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)


@needs("data", "cifar100")
def test_cifar100_takes_the_fine_labels():
    data = load(str(SHARED / "data" / "cifar100"), only="test", mean=(0.5,), std=(0.5,))
    assert torch.bincount(data.test.labels).tolist() == [100] * 100 and len(data.class_names) == 100


@needs("data", "imagenet-sample")
def test_imagenet_sample_has_a_test_part_alone_and_needs_a_size():
    path = str(SHARED / "data" / "imagenet-sample")
    with pytest.raises(DataError, match="resize="):
        load(path, mean=(0.5,), std=(0.5,))
    data = load(path, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=(36, 32))
    assert len(data.train) == 0 and data.test.images.shape == (1000, 3, 32, 32)
    assert sorted(data.test.labels.tolist()) == list(range(1000))
