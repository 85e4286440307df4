"""Every section of the five published systems: run some at a chosen length, and set the results beside theirs.

    python benchmarks/published.py --list
    python benchmarks/published.py 'cifar10-*-dcff' --epochs 20 --repeat 3
    python benchmarks/published.py 'cifar100-*' --smoke
    python benchmarks/published.py 'imagenet-*' --price --imagenet FOLDER
    python benchmarks/published.py --report --runs runs/published --runs elsewhere.tar.gz

A section is a recipe of recipes/, with the changes that published_figures.json has beside the published figures. It is
run by `prunus run`: what is done already is not done again, and what was stopped goes on. --epochs shortens every
training that is longer, and what is tied to its epochs with it. --report runs nothing: it reads run folders, or tar
archives of them, wherever they lie, and writes docs/published.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from options import add_page, parser_of
from pages import write
from published_sections import Section, chosen, shortened, systems

from prunus.errors import PrunusError


def changes(section: Section, options: argparse.Namespace) -> list[str]:
    """The overrides of the command line for one section. A shortened one has a name that says so."""
    found: list[str] = []
    path = section.load().data.path
    places = {"imagenet": options.imagenet, **({} if options.data is None else {path: str(options.data / path)})}
    if path in places:
        found.append(f"data.path={places[path]}")
    if options.epochs and not options.smoke and (short := [*shortened(section.load(), options.epochs)]):
        found += [f"name={section.id}-{options.epochs}-epochs", *short]
    return [*found, *options.set]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where a section failed, 2 for wrong input."""
    options = parser().parse_args(argv)
    try:
        if options.report:
            return _report(options)
        return _carried_out(chosen(options.sections), options)
    except PrunusError as error:
        print(error, file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__)
    add = made.add_argument
    add("sections", nargs="*", metavar="SECTION", help="names, or patterns such as 'cifar10-*-dcff'; none: all")
    add("--list", action="store_true", help="only print them, with the epochs of their full length")
    add("--price", action="store_true", help="only time a few steps of each, and project the hours")
    add("--smoke", action="store_true", help="their smoke variants, to see that all of it runs")
    add("--epochs", type=int, default=0, metavar="N", help="no training is longer")
    add("--repeat", type=int, default=None, metavar="N", help="so many seeds")
    add("--set", action="append", default=[], metavar="K=V", help="a further setting, as in `prunus run`")
    add("--data", type=Path, metavar="FOLDER", help="where cifar10, cifar100 and imagenet lie")
    add("--imagenet", default="imagenet", metavar="PATH", help="ImageNet's folder, where it has another name")
    add("--out", type=Path, default=Path("runs") / "published", help="stages and runs go here")
    add("--report", action="store_true", help="run nothing; print the tables and write them to the page")
    add("--runs", type=Path, action="append", default=[], help="run folders, folders or .tar.gz archives of them")
    add_page(made, "published.md")
    return made


def _carried_out(sections: Sequence[Section], options: argparse.Namespace) -> int:
    """Run them, one after the other; one that fails is told of, and the next begins."""
    failed = 0
    for section in sections:
        try:
            overrides = changes(section, options)
            if options.list:
                _tell(section)
            elif options.price:
                _price(section, overrides, options.smoke)
            else:
                _run(section, overrides, options)
        except PrunusError as error:
            failed += 1
            print(f"{section.id}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _tell(section: Section) -> None:
    epochs = " + ".join(f"{name} {fit.epochs}" for name, fit in section.load().trainings.items())
    words = [f"recipes/{section.recipe}", *(word for text in section.set for word in ("--set", shlex.quote(text)))]
    print(f"{section.id}: {section.row}; epochs: {epochs}\n    prunus run {' '.join(words)}")


def _price(section: Section, overrides: Sequence[str], smoke: bool) -> None:
    from prunus.lab.check import prices

    found = prices(section.load(overrides, smoke=smoke))
    parts = ", ".join(f"{p.stage} {p.hours:.2f} ({p.seconds_a_step * 1000:.0f} ms a step)" for p in found)
    print(f"{section.id}: {sum(price.hours for price in found):.2f} hours of training, projected: {parts}", flush=True)


def _run(section: Section, overrides: Sequence[str], options: argparse.Namespace) -> None:
    import prunus

    recipe = section.load(overrides)
    print(f"{recipe.name}{'-smoke' if options.smoke else ''}:", file=sys.stderr, flush=True)
    prunus.run(recipe, smoke=options.smoke, out=options.out, repeat=options.repeat, progress=False)


def _report(options: argparse.Namespace) -> int:
    """The tables of all systems from the runs that there are, on the page where it has the markers."""
    from published_tables import found_in, page_of

    with found_in(options.runs or [options.out]) as runs:
        text = page_of(systems(), runs)
    print(text)
    write(options.page, "published", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
