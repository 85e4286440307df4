"""The verb that looks at recipes: show, check, schema."""

from __future__ import annotations

import argparse

from prunus.cli.run import add_recipe
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError, UnknownName

__all__ = ["RECIPE"]

ACTIONS = ("show", "check", "schema")


def recipe_options(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe`."""
    parser.add_argument(
        "action", metavar="|".join(ACTIONS), help="explain it; see that it can work; print the JSON schema of recipes"
    )
    add_recipe(parser, optional=True)
    parser.add_argument("--time", action="store_true", help="with check: time a few steps and project the hours")


def recipe(options: argparse.Namespace) -> Reply:
    """Explain or check a recipe, or print the schema."""
    if options.action not in ACTIONS:
        raise UnknownName.of("action", options.action, ACTIONS)
    if options.action == "schema":
        return _schema()
    if options.recipe is None:
        raise InputError(f"no recipe; write prunus recipe {options.action} FILE.toml")
    return _show(options) if options.action == "show" else _check(options)


def _schema() -> Reply:
    import json

    from prunus.cli.show import say
    from prunus.lab.schema import json_schema

    schema = json_schema()
    return Reply(schema, lambda: say(json.dumps(schema, indent=2)))


def _show(options: argparse.Namespace) -> Reply:
    from prunus.cli.show import say
    from prunus.lab.explain import explained, toml
    from prunus.lab.recipe import load, plain

    given = load(options.recipe, options.set, smoke=options.smoke)
    lines, settings = explained(given), plain(given)

    def show() -> None:
        say(given.name)
        for stage, text in lines:
            say(f"  {stage:<9} {text}")
        say("\n# every setting\n" + toml(settings))

    return Reply({"recipe": given.name, "stages": dict(lines), "settings": settings}, show)


def _check(options: argparse.Namespace) -> Reply:
    from prunus.cli.show import say, table
    from prunus.lab.check import check, prices
    from prunus.lab.recipe import load

    given = load(options.recipe, options.set, smoke=options.smoke)
    found = check(given)
    timed = prices(given) if options.time else []
    hours = sum(price.hours for price in timed) * len(given.all_seeds)

    def show() -> None:
        for what, text in found:
            say(f"ok  {what}: {text}")
        if timed:
            rows = (
                (p.stage, str(p.epochs), str(p.steps), f"{1000 * p.seconds_a_step:.1f} ms", f"{p.hours:.2f}")
                for p in timed
            )
            table(("stage", "epochs", "steps", "a step", "hours, projected"), rows)
            seeds = f" for {len(given.all_seeds)} seeds" if len(given.all_seeds) > 1 else ""
            say(f"{hours:.2f} hours of training, projected{seeds}")

    data = {"recipe": given.name, "ok": True, "found": dict(found)}
    if timed:
        data |= {"time": [price.as_dict() for price in timed], "hours": hours}
    return Reply(data, show)


RECIPE = Verb(
    "recipe",
    "Explain a recipe, check it without training, time it, or print the schema of all.",
    "prunus recipe check recipes/cifar10-resnet20-slimming.toml --time",
    recipe_options,
    recipe,
)
