"""Options that several scripts have, and the codes with which they end."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from prunus.errors import PrunusError

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
NOT_TOLD = ("weights", "data", "mean", "std", "device", "threads", "results", "report", "page")
"""Options that a page does not repeat: where files lie, what runs, and on what, which it tells by other words."""
LATENCY_PAGE = "benchmarks-latency.md"
METHODS_PAGE = "benchmarks-methods.md"
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}


def parser_of(words: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with what a script says of itself."""
    return argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)


def each_apart(
    options: argparse.Namespace,
    one: Callable[[], Any],
    run: Callable[[argparse.Namespace], Any],
    page: Callable[[], Any],
) -> int:
    """The rest of a script that makes each record in a process of its own, which it starts with --one: there print that
    record; else make what is missing, unless only the report is wanted, and write the page. Returns 0."""
    if options.one:
        print(json.dumps(one()))
        return 0
    if not options.report:
        run(options)
    page()
    return 0


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def whole(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def targets(text: str) -> tuple[str, ...]:
    """What may have commas inside is divided by semicolons."""
    return tuple(text.split(";"))


def add_network(made: argparse.ArgumentParser, model: str) -> None:
    """--model, --weights, --data, --mean, --std."""
    made.add_argument("--model", default=model, help="a bundled CIFAR ResNet")
    made.add_argument("--weights", type=Path, default=SHARED / "weights" / "cifar10-resnet" / WEIGHTS[model])
    made.add_argument("--data", default=str(SHARED / "data" / "cifar10"))
    made.add_argument("--mean", type=numbers, default=(0.485, 0.456, 0.406))
    made.add_argument("--std", type=numbers, default=(0.229, 0.224, 0.225))


def add_training(made: argparse.ArgumentParser, *, compile: bool) -> None:
    """--limit, --device, --compile, --threads."""
    made.add_argument("--limit", type=int, default=0, help="use only so many images of each part (a smoke test)")
    made.add_argument("--device", default="auto")
    made.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=compile, help="torch.compile the training"
    )
    add_threads(made)


def add_threads(made: argparse.ArgumentParser) -> None:
    made.add_argument("--threads", type=int, default=0, help="0: as torch chooses")


def add_results(made: argparse.ArgumentParser, script: str, page: str = "benchmarks.md") -> None:
    """--results, --report, --page."""
    made.add_argument("--results", type=Path, default=HERE / "results" / f"{Path(script).stem}.jsonl")
    made.add_argument("--report", action="store_true", help="run nothing; write the table to the page")
    add_page(made, page)


def add_page(made: argparse.ArgumentParser, page: str = "benchmarks.md") -> None:
    made.add_argument("--page", type=Path, default=HERE.parent / "docs" / page)


def typed(options: argparse.Namespace, made: argparse.ArgumentParser, skip: Collection[str]) -> str:
    """The options that are not at their defaults, as they are typed, a space before each."""
    found = ""
    for name, value in vars(options).items():
        if name in skip or value == made.get_default(name):
            continue
        word = name.replace("_", "-")
        if isinstance(value, bool):
            found += f" --{'' if value else 'no-'}{word}"
        else:
            between = ";" if name == "targets" else ","
            shown = between.join(map(str, value)) if isinstance(value, tuple) else str(value)
            found += f" --{word} {shlex.quote(shown)}"
    return found


def carried_out(
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace], Sequence[str] | None],
    report: Callable[[argparse.Namespace], None],
) -> int:
    """Run what is missing, unless --report says not to, then report; returns the exit code."""

    def both() -> Sequence[str] | None:
        failed = None if options.report else run(options)
        report(options)
        return failed

    return exit_code(options, both)


def exit_code(options: argparse.Namespace, work: Callable[[], Sequence[str] | None]) -> int:
    """Work with --threads. 2 for wrong input, 1 where something failed, which the work returns a line for."""
    import torch

    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        failed = work() or ()
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0
