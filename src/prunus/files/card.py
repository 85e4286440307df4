"""The card of a cut network: what it cost before and after, how it was cut, how to load it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..plan import Plan
from ..result import Pruned

__all__ = ["Told", "card"]

COSTS = ("macs", "params", "bytes")
ACCURACY = {"before": "dense", "cut": "after the cut", "finetuned": "fine-tuned"}


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of a cut network. stored: the shapes of its tensors in the file. costs: name -> (before, after).
    accuracy: network -> percent."""

    plan: Plan
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    target: str | None = None
    method: str | None = None
    constructor: str | None = None
    proof: str | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_pruned(cls, small: Pruned, plan: Plan, method: str | None, constructor: str | None) -> Told:
        """Of what `prune` returned, its costs as they were then."""
        costs = {name: (getattr(small.before, name), getattr(small.after, name)) for name in COSTS}
        target = None if small.target is None else str(small.target)
        return cls(plan, {}, costs, target, method, constructor, None if small.proof is None else str(small.proof))

    @classmethod
    def of_run(
        cls,
        folder: Path,
        plan: Plan,
        stored: Mapping[str, tuple[int, ...]],
        method: str | None,
        constructor: str | None,
    ) -> Told:
        """Of a file, with what run.json beside it says where there is one."""
        try:
            run = table(json.loads((folder / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            run = {}
        results, about = table(run.get("results")), table(run.get("description"))
        before, after = table(results.get("before")), table(results.get("after"))
        costs = {n: (before[n], after[n]) for n in COSTS if counted(before.get(n)) and counted(after.get(n))}
        asked = table(table(results.get("settings")).get("prune"))
        target, named = results.get("target") or asked.get("target"), results.get("method") or asked.get("method")
        found = table(results.get("accuracy"))
        accuracy = {n: float(found[n]) for n in ACCURACY if isinstance(found.get(n), (int, float))}
        if constructor is None and isinstance(about.get("model"), str) and about.get("stem") is None:
            constructor = f"prunus.models.resolve({about['model']!r}, {about.get('classes')!r})"
        return cls(
            plan,
            stored,
            costs,
            target if isinstance(target, str) else None,
            method or (named if isinstance(named, str) else None),
            constructor,
            None,
            accuracy,
        )


def card(repo: str, told: Told, license: str | None = None) -> str:
    """The text of README.md, with the metadata that the hub reads before it."""
    head = ["---", "library_name: prunus", "tags:", "- pruning", *([f"license: {license}"] if license else []), "---"]
    lines = [*head, "", f"# {repo.partition('/')[2]}", "", "A network from which Prunus removed whole channels.", ""]
    lines += ["| | before | after | left |", "|---|---|---|---|"]
    lines += [f"| {name} | {was:,} | {now:,} | {100 * now / max(was, 1):.2f} % |" for name, (was, now) in costs(told)]
    lines += ["", *(f"- {name}: {value}" for name, value in facts(told)), ""]
    if told.accuracy:
        lines += ["| network | top-1 on the test data of its run |", "|---|---|"]
        lines += [f"| {ACCURACY[name]} | {value:.2f} % |" for name, value in told.accuracy.items()]
        lines += [""]
    made = told.constructor and plain(told.constructor)
    lines += [
        "## Loading",
        "",
        "```python",
        "import prunus",
        "",
        *([] if made else ["# your_constructor: what makes the dense network that was cut; its weights are not used"]),
        f'small = prunus.from_hub("{repo}", {made or "your_constructor()"})',
        "small.model  # an ordinary torch.nn.Module with fewer channels",
        "```",
        "",
        f'`prunus.from_hub("{repo}@COMMIT", …)` pins a commit. The weights are a safetensors file whose header holds '
        "the plan (`plan.json` beside it is a copy to read). Nothing in these files is executed.",
        "",
    ]
    return "\n".join(lines)


def costs(told: Told) -> list[tuple[str, tuple[int, int]]]:
    """The costs that are known; else how many numbers the tensors hold; a tied one under each name."""
    if told.costs:
        return list(told.costs.items())
    was = sum(math.prod(shape) for shape, _ in told.plan.fingerprint.values())
    shapes = {**told.plan.shapes(), **told.stored}  # the plan names a tied tensor once
    return [("entries of all named tensors", (was, sum(map(math.prod, shapes.values()))))]


def facts(told: Told) -> list[tuple[str, str]]:
    """What else there is to say, as (name, text)."""
    pairs = zip(told.plan.groups, told.plan.kept, strict=True)
    cut = sum(len(kept) < group.width for group, kept in pairs)
    found = [("target", code(told.target)), ("method", code(told.method))]
    found += [("groups of channels that were cut", f"{cut} of {len(told.plan.groups)}")]
    found += [("residual branches dropped", ", ".join(code(d.name) for d in told.plan.dropped))]
    found += [("proof", code(told.proof))]
    return [(name, text) for name, text in found if text]


def code(text: str | None) -> str:
    return f"`{plain(text)}`" if text else ""


def plain(text: str) -> str:
    """One line that cannot end the code it stands in."""
    return " ".join(text.replace("`", "'").split())


def table(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def counted(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
