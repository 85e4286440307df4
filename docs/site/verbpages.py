"""The page of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse

from prunus.cli import verbs
from prunus.cli.verb import Verb, parser_of

INTRO = """# Command line

Generated from the parsers. Every verb takes `--help`, `--json` and `--debug`. Exit codes: 0 done, 1 failed while
working, 2 the input was wrong. Errors are one line on stderr.
"""

OF_ALL = ("help", "json", "debug")


def page() -> str:
    """All verbs, in the order of `prunus --help`, with all their options."""
    return "\n".join([INTRO, *map(section, verbs())])


def section(verb: Verb) -> str:
    """One verb: what it does, an example, a table for each group of its options."""
    parser = parser_of(verb)
    parts = [f"## {verb.name}\n\n{escaped(verb.summary)}\n\n```\n{verb.example}\n```\n"]
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.dest not in OF_ALL]
        if actions:
            title = (
                "" if group.title in ("positional arguments", "options") else f"**{escaped(group.title or '')}**\n\n"
            )
            rows = "\n".join(f"| {named(one)} | {told(one, parser.prog)} |" for one in actions)
            parts.append(f"{title}| option | |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def named(action: argparse.Action) -> str:
    """An option as it is typed, with its value."""
    value = (
        "" if action.nargs == 0 else action.metavar or ("|".join(map(str, action.choices or ())) or action.dest.upper())
    )
    if isinstance(value, tuple):
        value = " ".join(value)
    shown = [f"{option} {value}".strip() for option in action.option_strings] or [str(value)]
    return ", ".join(f"`{one}`" for one in shown).replace("|", "\\|")


def told(action: argparse.Action, prog: str) -> str:
    """The help of an option, with its default filled in."""
    return escaped((action.help or "") % {**vars(action), "prog": prog})


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is, but for what stands between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick without its other half
        pieces = [text.replace("`", "\\`")]
    marks = str.maketrans({mark: f"\\{mark}" for mark in "\\*_<>[]|{}$~^#"})
    return "`".join(
        piece.translate(marks) if k % 2 == 0 else piece.replace("|", "\\|") for k, piece in enumerate(pieces)
    )
