"""The gallery: reports that the commands of this package write, made while the site is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = "recipes/digits-resnet20-slimming.toml"


@dataclass(frozen=True)
class Shown:
    """A page of the gallery: the commands that make it, in order, and where they leave it below the working folder."""

    title: str
    about: str
    commands: tuple[str, ...]
    file: str


SHOWN = (
    Shown(
        "The demo",
        "A small ResNet is trained on the bundled digits, cut to 30 % of its MACs, proven and trained back.",
        ("prunus demo --out demo",),
        "demo/index.html",
    ),
    Shown(
        "A network and its groups",
        "What belongs together in a ResNet-20: one colour for the layers that share one width.",
        ("prunus inspect resnet20 --input 3,32,32 --html groups.html",),
        "groups.html",
    ),
    Shown(
        "A report over seeds",
        "The small variant of a recipe, with two seeds: shows the form of a report. Two epochs of training say nothing "
        "about the method.",
        (f"prunus run {RECIPE} --smoke --repeat 2 --out runs", "prunus report runs --out report.html"),
        "report.html",
    ),
)


def fill(source: Path, work: Path, demo: Path | None) -> None:
    """Make the pages, put them into source/extra/gallery, and write source/gallery.md.

    demo: a page that `prunus demo` wrote before; it is taken instead of running the demo again.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    pages = source / "extra" / "gallery"
    pages.mkdir(parents=True)
    parts = ["# Gallery\n\nMade by these commands when this site was built.\n"]
    for number, shown in enumerate(SHOWN):
        start = time.monotonic()
        if demo is not None and number == 0:
            made = demo
        else:
            for command in shown.commands:
                run(command, work)
            made = work / shown.file
            print(f"gallery: {shown.title}, {time.monotonic() - start:.0f} s", file=sys.stderr)
        name = f"{shown.title.lower().replace(' ', '-')}.html"
        shutil.copy(made, pages / name)
        typed = "\n".join(shown.commands)
        link = f'<a href="gallery/{name}">Open the page</a>'
        parts.append(f"## {shown.title}\n\n{shown.about}\n\n```\n{typed}\n```\n\n{link}\n")
    (source / "gallery.md").write_text("\n".join(parts), "utf-8")


def run(command: str, work: Path) -> None:
    """A `prunus …` line of the gallery, with recipes from the repository and all it writes below `work`."""
    words: Sequence[str] = [str(ROOT / word) if word == RECIPE else word for word in command.split()[1:]]
    done = subprocess.run([sys.executable, "-m", "prunus", *words], cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gallery: `{command}` ended with {done.returncode}\n{done.stderr.strip()}")
