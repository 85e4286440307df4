"""What a data set gives to a method that needs more than weights: batches, a loss, a measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunus.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.data import Data
    from prunus.engine.runtime import Runtime
    from prunus.engine.task import Task
    from prunus.methods import Method, Search

__all__ = ["NOTHING", "Supplies", "supplies", "wants_data"]


@dataclass(frozen=True)
class Supplies:
    """`data`, `loss` and `evaluate` of `prunus.prune`."""

    data: Iterable[Any] | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    evaluate: Callable[[nn.Module], float] | None = None


NOTHING = Supplies()


def wants_data(method: Method | Search, repair: Sequence[str] = ()) -> bool:
    """Whether the method reads data, by itself or to measure networks, or one of the repairs does."""
    from prunus.methods.score import needs_of
    from prunus.repair import repairs_of

    return not needs_of(method).isdisjoint({"data", "evaluate"}) or any(r.needs_data for r in repairs_of(repair))


def supplies(
    method: Method | Search,
    data: Data | None,
    *,
    runtime: Runtime,
    task: Task | None = None,
    batch_size: int = 128,
    repair: Sequence[str] = (),
) -> Supplies:
    """Batches of the train part, normalised, in an order of the seed and not augmented, with the task's loss; measures
    are taken on the validation part, or on the train part where there is none, never on the test part.

    Nothing where neither method nor repair has a use for them. Raises InputError where one needs data that is missing.
    """
    from prunus.engine.data import Split, Stream, batches
    from prunus.engine.loop import evaluate
    from prunus.engine.task import Classification, goodness

    needed = wants_data(method, repair)
    if not needed and (data is None or not repair):
        return NOTHING
    reader = type(method).__name__ if wants_data(method) else f"repair {', '.join(repair)}"
    if data is None:
        raise InputError(f"{reader} reads data; give --data, or data= in Python")
    task = task or Classification()
    feed, part = data.train, data.train if data.validation is None else data.validation
    if isinstance(feed, Split | Stream):
        if not len(feed):
            raise InputError(f"{data.name} has no train part, and {reader} reads it")
        size = min(batch_size, len(feed))
        feed = batches(feed, batch_size=size, mean=data.mean, std=data.std, shuffle=True, seed=runtime.seed)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return task.loss(task.forward(model, batch), batch)

    def measure(model: nn.Module) -> float:
        if getattr(method, "epochs", 0):
            model = shortly_trained(model, method, data, batch_size, runtime, task)
        mean, std = (data.mean, data.std) if isinstance(part, Split | Stream) else (None, None)
        eager = replace(runtime, compile=False)
        return goodness(evaluate(model, part, mean=mean, std=std, task=task, runtime=eager))

    return Supplies(feed, loss, measure)


def shortly_trained(
    model: nn.Module, method: Any, data: Data, batch_size: int, runtime: Runtime, task: Task
) -> nn.Module:
    """A copy after `method.epochs` of SGD at a constant `method.lr` on the train part, not augmented."""
    from prunus.engine.config import Fit
    from prunus.engine.loop import fit
    from prunus.state import copied

    twin, epochs = copied(model), method.epochs
    config = Fit(epochs=epochs, batch_size=batch_size, lr=method.lr, schedule="steps", steps=())
    fit(
        twin, replace(data, validation=None), config, runtime=replace(runtime, compile=False), task=task, progress=False
    )
    return twin
