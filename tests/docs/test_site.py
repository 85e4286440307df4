"""What the documentation site is made of: the generated pages, the lists of pages, the check of links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from shared import ROOT

import prunus
from prunus.cli import verbs
from prunus.cli.verb import parser_of


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))


def site(folder: Path, **pages: str) -> Path:
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return folder


def test_links_that_lead_somewhere_are_right(tmp_path: Path) -> None:
    from links import broken

    there = '<a href="b.html#part">b</a> <a href="#top" id="top">up</a> <a href="https://example.org/x">away</a>'
    assert broken(site(tmp_path, a=there, b='<h1 id="part">b</h1> <a href="a.html">a</a>')) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<a href="c.html">c</a>', "a.html links c.html, which is not there"),
        ('<a href="b.html#gone">b</a>', "a.html links b.html#gone, and that page has no such place"),
        ('<a href="../outside.html">o</a>', "a.html links ../outside.html, which is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "a.html loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "a.html loads //fonts.example/x.css"),
        ('<img src="none.png">', "a.html links none.png, which is not there"),
    ],
)
def test_a_link_to_nothing_and_a_page_that_loads_from_elsewhere_are_named(text: str, said: str, tmp_path: Path) -> None:
    from links import broken

    (tmp_path / "site").mkdir()
    (tmp_path / "outside.html").write_text("", "utf-8")
    assert broken(site(tmp_path / "site", a=text, b="b")) == [said]


def test_a_style_sheet_that_loads_from_elsewhere_is_named(tmp_path: Path) -> None:
    from links import broken

    css = "a { background: url('x.png') } @import 'https://fonts.example/a.css'; b { src: url(//cdn.example/f.woff) }"
    (tmp_path / "x.css").write_text(css, "utf-8")
    wanted = ["x.css loads https://fonts.example/a.css", "x.css loads //cdn.example/f.woff"]
    assert broken(tmp_path) == wanted


def test_the_page_of_the_command_line_has_every_option() -> None:
    from verbpages import page

    text = page()
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(parts) == [verb.name for verb in verbs()]
    for verb in verbs():
        options = {option for action in parser_of(verb)._actions for option in action.option_strings}
        for option in options - {"-h", "--help", "--json", "--debug"}:
            assert f"`{option}" in parts[verb.name], (verb.name, option)
    assert "%(" not in text and "%%" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_the_pages_of_python_have_every_public_name() -> None:
    from pythonpages import pages

    made = pages()
    parts = re.findall(r"^## (\w+)$", made["python"], re.MULTILINE)
    assert set(prunus.__all__) - {"__version__"} == set(parts)
    assert "    method: str | Method | Search = 'magnitude',\n" in made["python"]
    for module, name in (("methods", "Slimming"), ("engine-config", "Fit"), ("testing", "check_model")):
        assert f"## {name}\n" in made[f"python-{module}"]


def test_a_docstring_becomes_markdown() -> None:
    from pythonpages import markdown

    doc = """One line, w_c ‖x‖.

    a: the first. b, c: the `others|x`; two. Raises InputError
        for both.

        indented()

    - one
      thing
    - two
    """
    assert markdown(doc, ["a", "b", "c"]).split("\n\n") == [
        "One line, w\\_c ‖x‖.",
        "- `a`: the first.\n- `b, c`: the `others\\|x`; two.",
        "Raises InputError for both.",
        "```text\nindented()\n```",
        "- one\n  thing\n- two",
    ]
    assert (
        markdown("alpha, b   the α\n             of all\nc          last") == "- `alpha, b`: the α of all\n- `c`: last"
    )


def test_every_page_is_listed_once() -> None:
    from build import DOCS, PARTS, contents
    from pythonpages import PAGES

    written = {page.stem for page in DOCS.glob("*.md")}
    named = [page for pages in PARTS.values() for page in pages]
    assert set(named) <= written | {"command-line", "gallery", "changelog", *PAGES}
    listed = re.findall(r"^[\w-]+$", contents([*written, *named]), re.MULTILINE)
    assert sorted(listed) == sorted({*written, *named} - {"index"})


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs Sphinx: `make docs` installs it")
@pytest.mark.parametrize(("link", "right"), [("other.md#part", True), ("gone.md", False), ("other.md#gone", False)])
def test_a_broken_link_fails_the_build(link: str, right: bool, tmp_path: Path) -> None:
    from build import rendered

    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text(f"# One\n\n[two]({link})\n\n```{{toctree}}\nother\n```\n", "utf-8")
    (source / "other.md").write_text("# Two\n\n## Part\n\ntext\n", "utf-8")
    assert rendered(source, tmp_path / "site", tmp_path / "cache") is right
