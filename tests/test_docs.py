"""The Python blocks of the documentation run, in order, as they stand there, and its defaults are those of the code."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import prunus
from prunus.cli import verbs
from prunus.cli.verb import read
from prunus.errors import InputError
from prunus.methods import METHODS
from prunus.repair import REPAIRS

ROOT = Path(__file__).resolve().parent.parent
METHODS_PAGE = ROOT / "docs" / "methods.md"


PAGES = {page.stem: page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
WITH_BLOCKS = [name for name, text in PAGES.items() if "\n```python\n" in text]


def test_these_pages_have_blocks() -> None:
    told = "start prune-my-model compare-methods add-a-method training rules methods saving exporting latency"
    assert set(told.split()) <= set(WITH_BLOCKS)


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    assert len(blocks) > 1
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    names = runpy.run_path(str(script), {"folder": tmp_path / "checkpoints"})
    assert names["small"].proof.holds


def typed() -> list[tuple[str, str]]:
    """(page, line) for each `prunus …` line in a block of the documentation, continued lines joined."""
    texts = {**PAGES, "README": (ROOT / "README.md").read_text("utf-8")}
    found = []
    for name, text in texts.items():
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, line) for line in lines if line.startswith("prunus ")]
    return found


def test_every_command_of_the_documentation_parses() -> None:
    table = {verb.name: verb for verb in verbs()}
    commands = typed()
    assert len(commands) > 40
    for page, line in commands:
        words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
        try:
            read(table[words[0]], words[1:])
        except (InputError, KeyError) as error:
            pytest.fail(f"{page}: {line}: {error}")


def documented() -> dict[str, dict[str, Any]]:
    """The knobs on the methods' page by class: tables headed by a class, and signatures such as `HRank(batches=5)`."""
    text = re.sub(r"^```.*?^```", "", METHODS_PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in re.findall(r"^\| `(\w+)` \| default \| \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        knobs = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", rows, re.MULTILINE)
        assert len(knobs) == rows.count("\n")
        found[name] = {knob: ast.literal_eval(value) for knob, value in knobs}
    for told in re.findall(r"(?:Knobs:\s|^- `\w+`, )`(\w+\([^`]*\))`", text, re.MULTILINE):
        call = ast.parse(" ".join(told.split()), mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        found[call.func.id] = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
    return found


def test_the_methods_page_has_every_knob_with_its_default() -> None:
    every: list[Any] = [method for method, _ in METHODS.values()] + [repair for repair, _ in REPAIRS.values()]
    classes = {type(one) for one in [*every, prunus.Steps()]}
    told = documented()
    assert set(told) == {kind.__name__ for kind in classes}
    for kind in classes:
        default = {part.name: getattr(kind(), part.name) for part in fields(kind)}
        told[kind.__name__].setdefault("scope", None)  # a scope of None is not spelled out
        assert told[kind.__name__] == {"scope": None, **default}, kind.__name__


def test_the_methods_page_has_every_name() -> None:
    text = METHODS_PAGE.read_text("utf-8")
    assert [name for name in (*METHODS, *REPAIRS) if f"`{name}`" not in text] == []
