"""The HTML page: well-formed, escaped, self-contained, and silent in a browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import NAMES, chromium, open_page

from prunus.lab.page import Bar, Facts, Page, Section, Table, Widths, render

VOID = {"meta", "link", "br"}
EVIL = '</title><script>alert("1")</script>&'


class Reader(HTMLParser):
    """Collects the tags, checks that each one is closed in its turn, and keeps the text per tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data)


def page(name: str = "layer1") -> Page:
    bars = (Bar(name, 16, 4, "conv1, bn1"), Bar("layer2", 32, 32), Bar("fc", 10, 10, note="model output"))
    table = Table(("", "before", "after"), (("macs", "1,000", "300"), (name, "93.4 %", "")))
    return Page(
        title=f"ResNet {name}",
        lead="An honest line.",
        sections=(
            Section("Before and after", "", table),
            Section("Widths", "One bar a group.", Widths(bars)),
            Section("How", "", Facts((("seed", "0"), (name, name)))),
        ),
        footer="end",
    )


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_every_tag_is_closed_and_the_numbers_are_there() -> None:
    reader = read(render(page()))
    assert reader.text["h1"] == ["ResNet layer1"]
    assert reader.text["td"] == ["1,000", "300", "93.4 %"]
    figures = [text for text in reader.text["span"] if "→" in text]
    assert figures == ["16 → 4", "32 → 32", "10 → 10"]


def test_bars_are_drawn_to_one_scale() -> None:
    reader = read(render(page()))
    boxes = [attrs["viewbox"] for tag, attrs in reader.seen if tag == "svg"]
    assert boxes == ["0 0 32 10"] * 3
    drawn = [(attrs["class"], attrs["width"]) for tag, attrs in reader.seen if tag == "rect"]
    assert drawn == [("gone", "16"), ("kept", "4"), ("gone", "32"), ("kept", "32"), ("gone", "10"), ("whole", "10")]
    titles = [text for text in reader.text["title"] if "channels" in text]
    assert titles[0] == "layer1: 4 of 16 channels kept (25 %)\nconv1, bn1"


def test_text_is_escaped_wherever_it_stands() -> None:
    plain, hostile = read(render(page())), read(render(page(EVIL)))
    assert [tag for tag, _ in hostile.seen] == [tag for tag, _ in plain.seen]
    assert hostile.text["h1"] == [f"ResNet {EVIL}"]


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render(page())
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    reader = read(html)
    assert not {"script", "iframe", "img", "object"} & {tag for tag, _ in reader.seen}
    policy = next(attrs["content"] for _, attrs in reader.seen if attrs.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert [attrs["href"] for _, attrs in reader.seen if "href" in attrs] == ["data:,"]


def test_light_dark_and_phone() -> None:
    html = render(page())
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html and "@media (max-width" in html


def test_a_page_without_bars() -> None:
    read(render(Page("t", "", (Section("Widths", "", Widths(())),))))


@pytest.fixture(scope="module")
def browser() -> str:
    found = chromium()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


@pytest.mark.browser
def test_the_console_stays_empty(browser: str, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(render(page(EVIL)), encoding="utf-8")
    document, console = open_page(browser, file)
    assert console == []
    assert document.count("<svg") == 3 and "alert" not in "".join(read(document).text.get("script", []))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("<script>throw new Error('deliberate')</script>", "deliberate"),
        ("<script>console.warn('careful')</script>", "careful"),
        ('<img src="missing.png">', ""),
    ],
)
def test_the_check_can_fail(browser: str, tmp_path: Path, body: str, word: str) -> None:
    """A page that has something to complain of is found by the same call."""
    file = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"img-src 'none'\">" if "img" in body else ""
    file.write_text(f"<!doctype html><title>t</title>{policy}<h1>t</h1>{body}", encoding="utf-8")
    _, console = open_page(browser, file)
    assert len(console) == 1 and word in console[0]


@pytest.mark.browser
def test_no_sideways_scrolling_on_a_phone(browser: str, tmp_path: Path) -> None:
    """At 360 pixels nothing reaches beyond the edge, but for what a table scrolls inside itself.

    The measuring script is added here; the page itself has none.
    """
    script = """<script>addEventListener("load", () => {
        document.documentElement.style.width = "360px"
        const wide = [...document.querySelectorAll("body *")].filter(
            e => !e.closest("table") && e.getBoundingClientRect().right > 360)
        document.title = "too wide: " + wide.map(e => e.tagName).join(" ") + "."
    })</script></body>"""
    html = render(page("a_group_with_a_very_long_name.that_never_breaks.conv1.weight"))
    html = html.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    file = tmp_path / "phone.html"
    file.write_text(html.replace("</body>", script), encoding="utf-8")
    document, console = open_page(browser, file, "--window-size=360,800")
    assert console == []
    assert "<title>too wide: .</title>" in document
