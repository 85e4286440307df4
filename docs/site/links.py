"""Whether the links of a finished site lead somewhere, and whether it loads anything from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""Tags whose address is fetched when the page opens."""
NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "author", "copyright", "alternate", "license"}


class Page(HTMLParser):
    """The ids of a page, the addresses that it links, and those that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.update(found[name] for name in ("id", "name") if found.get(name))
        if found.get(LOADED.get(tag, "")) and not NOT_FETCHED & set(found.get("rel", "").split()):
            self.loaded.append(found[LOADED[tag]])
        elif found.get("href"):
            self.linked.append(found["href"])


def broken(site: Path) -> list[str]:
    """A line for each link of the site's pages that leads nowhere, and for each address loaded from outside."""
    root = site.resolve()

    @cache
    def read(path: Path) -> Page:
        return Page(path.read_text("utf-8"))

    wrong = []
    for path in sorted(root.rglob("*.css")):
        found = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text("utf-8"))
        wrong += [f"{path.relative_to(root)} loads {address}" for address in found]
    for path in sorted(root.rglob("*.html")):
        page, name = read(path), path.relative_to(root)
        wrong += [f"{name} loads {address}" for address in page.loaded if elsewhere(address)]
        for address in page.linked + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or address.startswith("//"):
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_relative_to(root) or not there.is_file():
                wrong.append(f"{name} links {address}, which is not there")
            elif parts.fragment and there.suffix == ".html" and unquote(parts.fragment) not in read(there).ids:
                wrong.append(f"{name} links {address}, and that page has no such place")
    return wrong


def elsewhere(address: str) -> bool:
    """Whether this address is on another machine."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")
