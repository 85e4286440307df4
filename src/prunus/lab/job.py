"""The main job, told in steps: measure, cut with proof, measure, train back, measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from prunus.errors import InputError
from prunus.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.api import Pruned
    from prunus.engine.config import Augment, Fit
    from prunus.engine.data import Data
    from prunus.engine.history import History
    from prunus.engine.runtime import Runtime
    from prunus.engine.task import Task
    from prunus.lab.supplies import Supplies
    from prunus.methods import Method, Search
    from prunus.result import Loaded

__all__ = [
    "Accuracy",
    "Cut",
    "Outcome",
    "Width",
    "answer",
    "attached",
    "augmented",
    "checked",
    "configured",
    "do",
    "finetune",
    "holding",
    "knobs",
    "left",
    "make",
    "widths",
]


@dataclass(frozen=True)
class Cut:
    """What shall go, in the words of `prunus.prune`.

    target        the budget: "macs=50%", or a table {macs = 0.5}
    rates         removed fraction per layer: "[0.45]*7+[0.0]", or a table by layer or glob
    rates_layout  what the entries mean: "published", the order of the papers, or "forward", that of the groups
    keep_rule     how a width is rounded down: "exact" decimals, or "float-truncate" as in the reference nets
    widths        exact widths of layers or groups
    drop          residual blocks that go
    method        what ranks the channels (see `prunus methods`)
    options       settings of the method
    pin           modules or globs that stay whole
    attention     what attention loses where both can go: whole "heads", or "width" (the same slots of every head)
    seed          for methods that draw
    check         prove the cut
    repair        what is done for the network after the cut, without training: "fold", "reconstruct", "statistics"
    steps         cuts that lead to what is asked for, each scored on what the one before left
    schedule      how fast they go: "linear", or "cubic", most of it early
    """

    target: Target | str | None = None
    rates: str | Mapping[str, float] | None = None
    rates_layout: str = "published"
    keep_rule: str = "exact"
    widths: Mapping[str, int] | None = None
    drop: tuple[str, ...] = ()
    method: str = "magnitude"
    options: Mapping[str, Any] = field(default_factory=dict)
    pin: tuple[str, ...] = ()
    attention: Literal["heads", "width"] = "heads"
    seed: int = 0
    check: bool = True
    repair: tuple[str, ...] = ()
    steps: int = 1
    schedule: Literal["linear", "cubic"] = "linear"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 on the test part in percent, or what a task of the user's calls good; None where it was not measured."""

    before: float | None = None
    cut: float | None = None
    finetuned: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished job. `history` is that of the fine-tuning, None without one."""

    pruned: Pruned
    accuracy: Accuracy
    history: History | None


@dataclass(frozen=True)
class Width:
    """One group before and after, and the layers whose outputs it is."""

    group: str
    dense: int
    kept: int
    layers: tuple[str, ...]


def do(
    model: nn.Module,
    example: Tensor,
    cut: Cut,
    *,
    data: Data | None = None,
    after: Fit | None = None,
    runtime: Runtime,
    task: Task | None = None,
    progress: bool = False,
    batch_size: int = 128,
) -> Outcome:
    """Prune `model` as `cut` says, fine-tune on the train part of `data`, measure on the test part at each stage.

    batch_size: of the batches that a method reads to score.
    """
    from prunus.engine.loop import evaluate
    from prunus.engine.task import goodness
    from prunus.lab.supplies import supplies

    def top1(net: nn.Module) -> float | None:
        if data is None:
            return None
        return goodness(evaluate(net, data, task=task, runtime=runtime, progress=progress))

    if after is not None and data is None:
        raise InputError("fine-tuning needs data; give --data, or leave out --finetune-epochs")
    before = top1(model)
    method = configured(cut.method, cut.options)
    reads = supplies(method, data, runtime=runtime, task=task, batch_size=batch_size, repair=cut.repair)
    pruned = make(model, example, cut, reads)
    cut_only = top1(pruned.model)
    if after is None or data is None:
        return Outcome(pruned, Accuracy(before, cut_only), None)
    history = finetune(pruned, data, after, runtime=runtime, task=task, progress=progress)
    return Outcome(pruned, Accuracy(before, cut_only, top1(pruned.model)), history)


def checked(cut: Cut) -> Cut:
    """`cut` with its target parsed. Refuses at once what needs neither model nor data to be refused."""
    from prunus.asked import check_timed, check_way, the_target
    from prunus.repair import repairs_of
    from prunus.stepwise import Steps

    method = configured(cut.method, cut.options)
    goal = the_target(cut.target, cut.rates, cut.widths, cut.drop, method, timed=True)
    check_timed(method, goal, cut.steps)
    check_way(method, goal, cut.drop, Steps(cut.steps, cut.schedule).count, None)
    repairs_of(cut.repair)
    return replace(cut, target=goal)


def configured(name: str, options: Mapping[str, Any]) -> Method | Search:
    """The method of that name with settings of its own. Raises UnknownName, InputError."""
    from prunus.methods import method_of

    method = method_of(name)
    if not options:
        return method
    from prunus.lab.schema import conform

    known = {part.name: getattr(method, part.name) for part in fields(cast("Any", method))}
    return conform(type(method), {**known, **options}, "options")


def knobs(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method as it is then, those at their defaults too, as far as they are plain."""
    method: Any = configured(name, options)
    found = {part.name: getattr(method, part.name) for part in fields(method)}
    return {key: value for key, value in found.items() if value is None or isinstance(value, bool | int | float | str)}


def attached(
    name: str,
    options: Mapping[str, Any],
    model: nn.Module,
    example: Tensor,
    target: Target | str | None,
    epochs: int,
    *,
    pin: Sequence[str] = (),
    seed: int = 0,
    rates: str | Mapping[str, float] | None = None,
    rates_layout: str = "published",
    keep_rule: str = "exact",
) -> Any:
    """The training part of a method on a model: a hook for `fit`. Raises InputError for a method that has none, and for
    rates where it does not train at given widths."""
    from inspect import signature

    from prunus.methods import METHODS

    attach = getattr(configured(name, options), "attach", None)
    if attach is None:
        trains = ", ".join(known for known, (method, _) in METHODS.items() if hasattr(method, "attach"))
        raise InputError(f"method {name!r} has no training part (those that have one: {trains})")
    if rates is None:
        return attach(model, example, target, epochs, pin=pin, seed=seed)
    if "rates" not in signature(attach).parameters:
        raise InputError(f"method {name!r} does not train at given rates; give them to the cut, or a target to it")
    given = {"rates": rates, "rates_layout": rates_layout, "keep_rule": keep_rule}
    return attach(model, example, target, epochs, pin=pin, seed=seed, **given)


def holding(cut: Cut | None, model: nn.Module) -> list[Any]:
    """Hooks that keep the zeros of a network that `cut` thinned; none for methods that remove channels."""
    method = None if cut is None else configured(cut.method, cut.options)
    if cut is None or not callable(getattr(method, "thin", None)):
        return []
    from prunus.methods import Held

    return [Held.of(model, getattr(method, "include", ()), cut.pin)]


def make(model: nn.Module, example: Tensor, cut: Cut, reads: Supplies | None = None) -> Pruned:
    """The cut itself. reads: for a method that needs data."""
    from prunus.api import Steps, prune
    from prunus.lab.supplies import NOTHING

    reads = reads or NOTHING
    place = next((tensor.device for tensor in model.parameters()), example.device)
    return prune(
        model,
        example.to(place),
        cut.target,
        configured(cut.method, cut.options),
        rates=cut.rates,
        rates_layout=cut.rates_layout,
        keep_rule=cut.keep_rule,
        widths=cut.widths,
        drop=cut.drop,
        pin=cut.pin,
        attention=cut.attention,
        seed=cut.seed,
        check=cut.check,
        data=reads.data,
        loss=reads.loss,
        evaluate=reads.evaluate,
        repair=cut.repair,
        steps=Steps(cut.steps, cut.schedule),
    )


def finetune(
    small: Pruned | Loaded | nn.Module,
    data: Data | Iterable[Any],
    config: Fit | None = None,
    *,
    teacher: nn.Module | None = None,
    runtime: Runtime | None = None,
    task: Task | None = None,
    progress: bool = True,
) -> History:
    """Train a cut network back, in place. config: by default 10 epochs of SGD at .02, cosine, without augmentation.
    Weights that the method `weights` zeroed stay 0.

    data: a `Data` (its train part), or batches that start anew each time. teacher: distil from its logits.
    """
    from prunus.api import Pruned
    from prunus.engine.config import Fit
    from prunus.engine.loop import fit
    from prunus.methods import Held, Thinned
    from prunus.result import Loaded

    model = small.model if isinstance(small, (Pruned, Loaded)) else small
    settings = config or Fit(epochs=10, lr=0.02)
    masks = Held(model, small.masks) if isinstance(small, (Thinned, Loaded)) and small.masks else None
    hooks = () if masks is None else (masks,)
    try:
        return fit(model, data, settings, hooks=hooks, teacher=teacher, runtime=runtime, task=task, progress=progress)
    finally:
        if masks is not None:
            masks.settle()


def augmented(data: Data, how: str) -> Augment:
    """The usual augmentation: "none", "crop", "crop-flip", or "auto".

    A crop pads by an eighth of the image's side; streamed images are cropped and resized at random instead. auto: both
    for colour images, none for grey ones, where a mirrored image often means something else.
    """
    from prunus.engine.config import Augment
    from prunus.engine.data import Split, Stream

    if isinstance(data.train, Stream):
        return Augment(scale=0.08 if how != "none" else 1.0, flip=how in ("auto", "crop-flip"))
    if not isinstance(data.train, Split) and how not in ("none", "auto"):
        raise InputError(f"--augment {how} is for images in memory or in files; {data.name} gives batches of its own")
    if how == "none" or not isinstance(data.train, Split):
        return Augment()
    channels, height = data.train.images.shape[1:3]
    if how == "auto":
        how = "crop-flip" if channels == 3 else "none"
    return Augment(crop=height // 8 if how != "none" else 0, flip=how == "crop-flip")


def widths(pruned: Pruned) -> tuple[Width, ...]:
    """Every group that could be pruned, in the order of the network; those of dropped branches are gone."""
    from prunus.graph.coupling import layer

    gone = pruned.coupling.without([d.name for d in pruned.plan.dropped])[2]
    return tuple(
        Width(group.name, group.width, kept, tuple(map(layer, group.producers())))
        for g, (group, kept) in enumerate(zip(pruned.plan.groups, pruned.plan.widths, strict=True))
        if g not in gone
    )


def left(before: float, after: float) -> float:
    """The fraction that remains."""
    return after / before if before else 1.0


def answer(outcome: Outcome, cut: Cut) -> dict[str, Any]:
    """The result as plain data, for JSON."""
    from prunus.methods.sparsity import Thinned, as_json

    pruned, kinds = outcome.pruned, ("macs", "params", "nonzero", "bytes")
    thin = {"sparsity": as_json(pruned, pruned.sizes())} if isinstance(pruned, Thinned) else {}
    before, after = ({kind: getattr(cost, kind) for kind in kinds} for cost in (pruned.before, pruned.after))
    return {
        "method": cut.method,
        "target": None if cut.target is None else str(cut.target),
        "before": before,
        "after": after,
        "left": {kind: left(before[kind], after[kind]) for kind in kinds},
        "verified": pruned.proof is not None and pruned.proof.holds,
        "proof": None if pruned.proof is None else asdict(pruned.proof),
        "pinned": [{"name": pin.name, "width": pin.width, "reason": pin.reason} for pin in pruned.coupling.pinned],
        "widths": [{"group": width.group, "dense": width.dense, "kept": width.kept} for width in widths(pruned)],
        "dropped": [dropped.name for dropped in pruned.plan.dropped],
        "latency": None if pruned.latency is None else pruned.latency.to_json(),
        "notes": list(pruned.notes),
        "accuracy": asdict(outcome.accuracy),
        **thin,
    }
