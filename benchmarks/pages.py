"""What the scripts write on a page, between two markers, and the lines that many of them have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from records import Record

from prunus.errors import InputError


def publish(options: argparse.Namespace, name: str, text: str) -> None:
    """Print the text; with --report write it between the markers of `name` on the page too."""
    print(text)
    if options.report:
        write(options.page, name, text)


def write(page: Path, name: str, text: str) -> None:
    """Put the text between the markers of `name`. Raises InputError where there is no page, or no such markers."""
    if not page.exists():
        raise InputError(f"there is no page {page}")
    page.write_text(between_markers(page.read_text("utf-8"), name, text), "utf-8")


def between_markers(text: str, name: str, body: str) -> str:
    """`text` with what is between the markers of `name` replaced. Raises InputError where a marker is missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"the page must have {begin} and after it {end}, each once")
    head, tail = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    return f"{head}\n{body}\n{tail}"


def section(script: str, options: argparse.Namespace, conditions: str, table: str, more: str = "") -> str:
    """The command with its weights, its data and what more was typed; the conditions; the table."""
    return f"Command: `{command(script, options)}{more}`\n\n{conditions}\n\n{table}"


def command(script: str, options: argparse.Namespace) -> str:
    weights = f"--weights {options.weights.name} " if "weights" in options else ""
    return f"python benchmarks/{Path(script).name} {weights}--data {Path(options.data).name}/"


def every(records: Sequence[Record], name: str) -> str:
    """What the records say there, each once."""
    return "; ".join(sorted({str(record[name]) for record in records}))


def seeds_of(records: Sequence[Record]) -> str:
    return ", ".join(map(str, sorted({record["seed"] for record in records})))


def listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def all_versions(records: Sequence[Record]) -> str:
    return "; ".join(sorted({listed(record["versions"]) for record in records}))


def made_on(records: Sequence[Record]) -> str:
    """The line about hardware and versions."""
    return f"- Hardware: {every(records, 'hardware')}. Versions: {all_versions(records)}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
