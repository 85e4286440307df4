"""Tasks by name: classification, or what a file of the user's defines."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunus.engine.data import Data
from prunus.engine.sources import factory
from prunus.engine.task import Classification, task_of
from prunus.errors import InputError, UnknownName

FILE = """
from dataclasses import dataclass

from prunus.engine.task import Classification

SEEN = []

@dataclass
class Batch:
    n: int

class Whole(Classification):
    def size(self, batch):
        assert isinstance(batch, Batch)
        return batch.n

class Weighted(Whole):
    def __init__(self, weight):
        self.weight = weight

def make():
    return Whole(label_smoothing=0.25)

def loaders():
    return [Batch(3)], [Batch(4)]

def fails():
    raise RuntimeError("no\\nluck")

class Half:
    def forward(self, model, batch): ...
    def loss(self, output, batch): ...
    size = 3

ready = Whole(label_smoothing=0.5)
number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text(FILE)
    return path


def test_classification_by_name() -> None:
    assert task_of("classification") == Classification()


@pytest.mark.parametrize(("name", "smoothing"), [("Whole", 0.0), ("make", 0.25), ("ready", 0.5)])
def test_a_class_a_function_and_an_object(file: Path, name: str, smoothing: float) -> None:
    assert task_of(f"{file}:{name}").label_smoothing == smoothing


def test_the_data_and_the_task_of_one_file_share_its_classes(file: Path) -> None:
    data = factory(f"{file}:loaders")
    assert isinstance(data, Data) and task_of(f"{file}:Whole").size(next(iter(data.test))) == 4


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("clasification", UnknownName, "unknown task 'clasification'; did you mean 'classification'?"),
        ("nowhere.py:Task", InputError, "'nowhere.py:Task': there is no file nowhere.py"),
        ("{file}", InputError, "names no Task; write path/file.py:Task"),
        ("{file}:Hole", UnknownName, "unknown task in tasks.py 'Hole'; did you mean 'Whole'?"),
        ("{file}:Weighted", InputError, "TypeError: "),
        ("{file}:fails", InputError, "cannot be used as a task: RuntimeError: no"),
        ("{file}:Half", InputError, "gives Half, which lacks size, tally, metrics; a task has forward, loss, size, "),
        ("{file}:number", InputError, "gives int, which lacks forward, loss, size, tally, metrics"),
    ],
)
def test_what_is_no_task(file: Path, name: str, kind: type[InputError], says: str) -> None:
    with pytest.raises(InputError) as error:
        task_of(name.format(file=file))
    assert type(error.value) is kind and says in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def Task(:\n")
    with pytest.raises(InputError, match="cannot be used as a task: SyntaxError: "):
        task_of(f"{tmp_path}/broken.py:Task")
