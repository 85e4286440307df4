"""What a verb is, and the parser every verb gets."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from prunus.errors import InputError, UnknownName, nearest

__all__ = ["Parser", "Reply", "Verb", "first", "parser_of", "read", "write"]


@dataclass(frozen=True)
class Reply:
    """What a verb found: plain data, which `--json` prints, and a function that shows the same to people. code: the
    exit code, where a part of the work failed."""

    data: Mapping[str, object]
    show: Callable[[], None]
    code: int = 0


@dataclass(frozen=True)
class Verb:
    """One verb: its options, and the function that does the work."""

    name: str
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Reply]


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are `InputError`, so that every wrong input leaves by the same door."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` shows an example")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse, with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            told = UnknownName.of("choice", value, map(str, action.choices))
            raise argparse.ArgumentError(action, str(told))


def parser_of(verb: Verb) -> Parser:
    """The parser of `verb`: its own options, and those of every verb."""
    parser = Parser(
        prog=f"prunus {verb.name}",
        description=verb.summary,
        epilog=f"example:\n  {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def read(verb: Verb, words: list[str]) -> argparse.Namespace:
    """The options of `verb` in `words`. An option that does not exist is refused with the nearest one that does."""
    parser = parser_of(verb)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--[a-zA-Z][\w-]*", option) and option not in known:
            close = nearest(option, known)
            hint = f"; did you mean {close!r}?" if close else ""
            parser.error(f"unknown option {option!r}{hint}")
    options, extra = parser.parse_known_args(words)
    if extra:
        parser.error(f"unexpected {' '.join(extra)!r}")
    return options


def _strict(value: Any) -> Any:
    """Plain data with null for numbers that JSON does not have: not finite ones."""
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def first() -> bool:
    """Whether this is the first of the processes that were started together, which alone writes and speaks."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def write(reply: Reply, *, as_json: bool) -> None:
    """Print `reply` on stdout, as one JSON object or for people."""
    if as_json:
        sys.stdout.write(json.dumps(_strict(reply.data), indent=2, allow_nan=False, default=str) + "\n")
    else:
        reply.show()
    sys.stdout.flush()
