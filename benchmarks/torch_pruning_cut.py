"""Torch-Pruning on the bundled ResNets, used as it documents: BasePruner, its group importances, one step at a time.

Its graph does not know the option-A shortcut. In the published form with `F.pad` it removes channel i of one stage with
channel i of the next, and the result does not run. So the bundled net is taken, whose shortcut is a module, and that
module is registered by `customized_pruners`; then every group is found and the networks are valid, which `differs`
checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import prunus
from prunus.api import apply, cost, trace
from prunus.methods.score import Floats
from prunus.models.shortcut import Shortcut
from prunus.plan import plan_for

STEPS = 400


@dataclass(frozen=True, eq=False)
class Stepped:
    """What Torch-Pruning left: the network, its MACs, the steps taken, and the channels of each root that went."""

    model: nn.Module
    macs: int
    steps: int
    history: list[tuple[str, bool, list[int]]]


def step_to(
    model: nn.Module, example: Tensor, limit: int, *, random: bool, scope: str, classes: int, seed: int
) -> Stepped:
    """Prune `model` in place, 1/400 of the channels a step, until its MACs are at or under `limit`."""
    import torch_pruning as tp

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.RandomImportance() if random else tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=scope == "global",
            pruning_ratio=1.0,
            iterative_steps=STEPS,
            ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
            customized_pruners={Shortcut: shortcut_pruner(model)},
        )
        macs = cost(model, example).macs
        while macs > limit and pruner.current_step < STEPS:
            pruner.step()
            macs = cost(model, example).macs
    if macs > limit:
        raise RuntimeError(f"Torch-Pruning stopped at {macs:,} MACs after {STEPS} steps; {limit:,} were asked")
    return Stepped(model, macs, pruner.current_step, pruner.pruning_history())


def shortcut_pruner(model: nn.Module) -> Any:
    """What Torch-Pruning must know of a Shortcut: how many channels it has on either side, and how to remove some."""
    from torch_pruning.pruner.function import BasePruningFunc

    widths = {m: int((m.index >= 0).sum()) for m in model.modules() if isinstance(m, Shortcut)}

    class ShortcutPruner(BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: Shortcut, idxs: Sequence[int]) -> nn.Module:
            layer.index = layer.index[left(len(layer.index), idxs)]
            return layer

        def prune_in_channels(self, layer: Shortcut, idxs: Sequence[int]) -> nn.Module:
            stays = left(widths[layer], idxs)
            renumbered = torch.where(stays, stays.cumsum(0) - 1, -1)
            layer.index = torch.where(layer.index < 0, -1, renumbered[layer.index.clamp(min=0)])
            widths[layer] = int(stays.sum())
            return layer

        def get_out_channels(self, layer: Shortcut) -> int:
            return len(layer.index)

        def get_in_channels(self, layer: Shortcut) -> int:
            return widths[layer]

    return ShortcutPruner()


def left(width: int, gone: Sequence[int]) -> Tensor:
    """True for the channels that stay."""
    stays = torch.ones(width, dtype=torch.bool)
    stays[list(gone)] = False
    return stays


def removed_at(coupling: prunus.Coupling, stepped: Stepped) -> list[Floats]:
    """For each channel of each group the place in the history where it went; the length of the history if it stayed."""
    at = {tensor.rpartition(".")[0]: g for g, group in enumerate(coupling.groups) for tensor in group.producers()}
    times = [np.full(group.width, float(len(stepped.history))) for group in coupling.groups]
    for when, (root, is_output, gone) in enumerate(stepped.history):
        if not is_output or root not in at:
            raise RuntimeError(f"Torch-Pruning removed channels of {root}, which Prunus keeps whole")
        here = times[at[root]]
        here[np.flatnonzero(here == len(stepped.history))[gone]] = when
    return times


def differs(build: Callable[[], nn.Module], example: Tensor, stepped: Stepped) -> float:
    """Largest difference, relative to the largest output, between Torch-Pruning's network and the dense one cut by
    Prunus to the same channels, in eval mode: about 1e-6 in float32 where the cut is valid.
    """
    dense = build()
    coupling = trace(dense, example)
    kept = [np.flatnonzero(times == len(stepped.history)) for times in removed_at(coupling, stepped)]
    ours = apply(dense, plan_for(coupling, kept)).eval()
    x = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    training = stepped.model.training
    with torch.no_grad():
        a, b = stepped.model.eval()(x), ours(x)
    stepped.model.train(training)
    return float((a - b).abs().max() / b.abs().max())
