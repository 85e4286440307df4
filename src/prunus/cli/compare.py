"""The verb that compares two runs or two plans."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from prunus.lab.compare import Comparison
    from prunus.lab.statistics import Spread

__all__ = ["COMPARE"]


def compare_options(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument("a", metavar="A", help="a run folder, with or without seeds below it; or a file with a plan")
    parser.add_argument("b", metavar="B", help="what is compared to it")


def compare(options: argparse.Namespace) -> Reply:
    """B against A."""
    from prunus.lab.compare import compare as compared

    found = compared(options.a, options.b)
    return Reply(found.as_dict(), lambda: _show(found))


def _show(found: Comparison) -> None:
    from prunus.cli.show import say, table
    from prunus.lab.formats import figure, text_of

    def spread(one: Spread | None) -> str:
        if one is None:
            return ""
        return figure(one.mean) + ("" if one.sd is None else f" ± {figure(one.sd)} ({one.n})")

    a, b = found.names
    rows = []
    for one in found.figures:
        pairing = one.pairing
        difference = interval = p = ""
        if pairing is not None:
            spreads = pairing.difference
            difference = f"{spreads.mean:+.4g}"
            if spreads.sd and pairing.p is not None:  # costs are the same for every seed: nothing to test
                interval, p = f"{spreads.low:+.4g} … {spreads.high:+.4g}", f"{pairing.p:.2g}"
        rows.append((one.name, spread(one.a), spread(one.b), difference, interval, p))
    if rows:
        table(("figure", a, b, "b - a", "95 % interval", "p"), rows)
    if found.groups:
        groups = ((text_of(g.name), *(text_of(value) for value in (g.dense, g.a, g.b, g.shared))) for g in found.groups)
        table(("group", "dense", a, b, "the same"), groups)
    if found.settings:
        table(("setting", a, b), ((name, *map(text_of, pair)) for name, pair in found.settings.items()))
    for note in found.notes:
        say(f"note: {note}")
    say(found.verdict)


COMPARE = Verb(
    "compare",
    "Compare two runs or two plans, with a paired test over seeds.",
    "prunus compare runs/resnet20-l1 runs/resnet20-slimming",
    compare_options,
    compare,
)
