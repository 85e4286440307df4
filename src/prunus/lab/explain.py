"""A recipe in words, and its resolved settings as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from prunus.engine.config import Augment, Fit
from prunus.lab.recipe import Finetune, Recipe, Sparsity

__all__ = ["explained", "toml"]


def explained(recipe: Recipe) -> list[tuple[str, str]]:
    """(stage, what it does) in order, the network and the data first."""
    model, cut = recipe.model, recipe.prune
    seeds = ", ".join(map(str, recipe.all_seeds))
    starts = f"from the weights {model.weights}" if model.weights else "from random weights"
    lines = [("model", f"{model.name}, {starts}; seed {seeds}"), ("data", _data(recipe))]
    if recipe.train is not None and model.weights is None:
        lines.append(("baseline", _training(recipe.train)))
    else:
        lines.append(("baseline", "skipped: " + ("the recipe brings weights" if model.weights else "no [train]")))
    lines.append(("sparsity", _training(recipe.sparsity) if recipe.sparsity else "skipped: no [sparsity]"))
    if cut is None:
        lines.append(("prune", "skipped: no [prune]"))
    else:
        aims = {"target": cut.target, "rates": cut.rates, "widths": cut.widths, "drop": cut.drop}
        aim = ", ".join(f"{name} {_short(value)}" for name, value in aims.items() if value)
        options = "".join(f", {name}={value}" for name, value in cut.options.items())
        end = "zeros, no cut" if cut.method == "weights" else "proven" if cut.check else "not proven"
        lines.append(("prune", f"{aim}, ranked by {cut.method}{options}; {end}"))
    lines.append(("finetune", _training(recipe.finetune) if recipe.finetune else "skipped: no [finetune]"))
    lines.append(("evaluate", f"the test part, once for each network; selection: {recipe.selection}"))
    return lines


def toml(table: Mapping[str, Any]) -> str:
    """The table as TOML. Keys with plain values come before tables."""
    return "\n".join(_lines(table, ())) + "\n"


def _data(recipe: Recipe) -> str:
    source = recipe.data
    text = source.path
    if source.resize is not None:
        text += f", resized to {source.resize}"
    if source.limit is not None:
        text += f", at most {source.limit} images of each part"
    if source.stream:
        text += ", streamed from files" + (f" by {source.workers} workers" if source.workers is not None else "")
    if source.validation:
        text += f"; {100 * source.validation:g} % of each class of the train part is held out for validation"
    if source.published:
        text += "; THE TEST PART CHOOSES EPOCHS, as the papers do"
    return text


def _training(fit: Fit) -> str:
    decay = f", weight decay {fit.weight_decay:g}" if fit.weight_decay else ""
    text = f"{fit.epochs} epochs of {fit.optimizer} in batches of {fit.batch_size}, rate {fit.lr:g}{decay}, "
    if fit.schedule != "steps":
        text += fit.schedule
    else:
        at = _short(", ".join(f"{step:g}" for step in fit.steps))
        text += f"times {fit.gamma:g} at epochs {at}" if fit.steps else "constant"
    extras = []
    if fit.warmup:
        extras.append(f"warm-up over {fit.warmup:g} epochs")
    for name in ("label_smoothing", "ema", "clip"):
        if getattr(fit, name):
            extras.append(f"{name.replace('_', ' ')} {getattr(fit, name):g}")
    if fit.accumulate > 1:
        extras.append(f"{fit.accumulate} parts a batch")
    changed = {
        name: getattr(fit.augment, name)
        for name in Augment.__dataclass_fields__
        if getattr(fit.augment, name) != getattr(Augment(), name)
    }
    extras.append("augmented: " + (", ".join(f"{k} {v}" for k, v in changed.items()) if changed else "not"))
    if isinstance(fit, Sparsity):
        extras.append(f"with {fit.method}" + "".join(f", {name}={value}" for name, value in fit.options.items()))
    if isinstance(fit, Finetune) and fit.teacher:
        extras.append(f"taught by the network at full size (weight {fit.distil.weight:g})")
    if fit.selection == "best":
        extras.append("the best epoch is kept")
    return "; ".join([text, *extras])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and (plain or not table):
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield ""
            yield from _lines(value, (*path, key))


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int) else repr(value)
