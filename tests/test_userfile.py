"""A file of the user's: run once for each of its contents, with what lies beside it, and named when it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prunus.errors import InputError, UnknownName
from prunus.userfile import beside, first_line, imported, is_file_name, locate, module_of, named


def test_one_file_is_one_module_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("class Net: ...\n")
    first = module_of(path)
    assert module_of(path) is first and sys.modules[first.__name__] is first
    path.write_text("class Net:\n    width = 2\n")
    second = module_of(path)
    assert second is not first and second.Net.width == 2 and sys.modules[first.__name__] is first


def test_the_same_text_in_two_files_is_two_modules(tmp_path: Path) -> None:
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text("x = []\n")
    assert module_of(paths[0]).x is not module_of(paths[1]).x


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        module_of(path)
    assert set(sys.modules) == before


def test_what_lies_beside_is_seen_inside_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), beside(tmp_path / "mine.py"):
        assert sys.path[0] == str(tmp_path)
        raise RuntimeError
    assert str(tmp_path) not in sys.path


def test_code_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match=r"script\.py ends the program \(sys.exit, 0\)"), beside(path):
        module_of(path)


def test_what_a_file_imports_from_its_folder(tmp_path: Path) -> None:
    texts = {
        "nets.py": "import os, torch\nimport pack.deep\nfrom parts import block\nfrom . import same\n",
        "parts.py": "def f():\n    import late\n    import nets\n",
        "late.py": "def broken(:\n",
        "same.py": "",
        "pack/__init__.py": "",
        "pack/deep.py": "from .near import x\nfrom .. import parts\n",
        "pack/near.py": "",
        "unused.py": "",
        "pack/unused.py": "",
    }
    (tmp_path / "pack").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = {file.relative_to(tmp_path).as_posix() for file in imported(tmp_path / "nets.py")}
    assert found == {name for name in texts if "unused" not in name}


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os\ndef model(): ...\ndef _hidden(): ...\nnumber = 3\n")
    assert locate(f"{path}:model", "factory") == (path, "model")
    assert is_file_name("a/b.py:c") and is_file_name("b.py") and not is_file_name("resnet56")
    with pytest.raises(UnknownName) as error:
        named(module_of(path), "mdel", "factory")
    assert str(error.value) == "unknown factory in mine.py 'mdel'; did you mean 'model'? (allowed: model)"
    assert named(module_of(path), "number", "factory") == 3


@pytest.mark.parametrize("name", ["mine.py", "mine.py:", "mine:x", ":x"])
def test_a_name_without_a_file_or_an_attribute(name: str) -> None:
    with pytest.raises(InputError, match=r"names no factory; write path/file\.py:factory"):
        locate(name, "factory")


def test_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "ValueError: one" and first_line(KeyError()) == "KeyError"
