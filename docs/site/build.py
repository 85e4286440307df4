"""Build the documentation site: the pages of docs/, two references generated from the code, and a gallery of reports.

    python docs/site/build.py --out site --demo demo-report/index.html

Sphinx runs with warnings as errors, and the finished pages are checked: every link within the site leads somewhere,
and no page loads anything from elsewhere. Nothing that is generated is kept in the repository.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gallery
import links
import pythonpages
import verbpages

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent

PARTS: Mapping[str, Sequence[str]] = {
    "Begin": ("start", "from-other-tools"),
    "Jobs": ("prune-my-model", "compare-methods", "latency", "deploy", "add-a-method", "rules"),
    "Deploy to": ("exporting", "deploy-tensorrt", "deploy-coreml", "deploy-executorch"),
    "Guides": ("methods", "training", "saving", "results", "sweeps"),
    "Reference": ("command-line", *pythonpages.PAGES),
    "Evidence": (
        "gallery",
        "benchmarks",
        "benchmarks-methods",
        "benchmarks-latency",
        "coverage",
        "zoo",
        "published",
        "architecture",
        "changelog",
    ),
}
"""The pages by part, in order. Pages of docs/ that no part names follow at the end."""


def stage(source: Path) -> None:
    """Put all written and generated pages into `source`, with the lists of pages that Sphinx wants on the first one."""
    for page in DOCS.glob("*.md"):
        shutil.copy(page, source)
    shutil.copy(DOCS.parent / "CHANGELOG.md", source / "changelog.md")
    (source / "command-line.md").write_text(verbpages.page(), "utf-8")
    for name, text in pythonpages.pages().items():
        (source / f"{name}.md").write_text(text, "utf-8")
    index = source / "index.md"
    index.write_text(index.read_text("utf-8") + contents([path.stem for path in source.glob("*.md")]), "utf-8")


def contents(there: Sequence[str]) -> str:
    """Lists of pages, one a part, for those of PARTS and all others that are `there`."""
    named = {page for pages in PARTS.values() for page in pages}
    rest = sorted(set(there) - named - {"index"})
    parts = {**PARTS, **({"More": rest} if rest else {})}
    lists = (f"```{{toctree}}\n:hidden:\n:caption: {part}\n\n" + "\n".join(parts[part]) + "\n```\n" for part in parts)
    return "\n" + "\n".join(lists)


def rendered(source: Path, out: Path, cache: Path) -> bool:
    """Have Sphinx write the site; False where it warned of anything, such as a link to no page."""
    strict = ["-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E", "-c", str(HERE), "-d", str(cache)]
    extra = ["-D", f"html_extra_path={(source / 'extra').resolve()}"] if (source / "extra").is_dir() else []
    return subprocess.run([sys.executable, *strict, *extra, str(source), str(out)]).returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Build, check, and say where the site is. The exit code is 1 where a page or a link is wrong."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=Path("site"))
    parser.add_argument("--work", type=Path, default=Path("build/docs"), help="for pages and reports on the way")
    parser.add_argument("--demo", type=Path, help="a page that `prunus demo` wrote, instead of a new one")
    options = parser.parse_args(argv)
    source = options.work / "source"
    for folder in (source, options.out):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    gallery.fill(source, options.work.resolve() / "reports", options.demo)
    stage(source)
    if not rendered(source, options.out, options.work / "cache"):
        return 1
    wrong = links.broken(options.out)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{len(list(options.out.rglob('*.html')))} pages, no broken link: {options.out / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
