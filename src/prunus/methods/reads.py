"""Where gates act: on what reads a channel.

A convolution or linear layer that reads g ⊙ x computes with the weight W·diag(g) what it would with W on gated
activations, and ∂L/∂g_c = Σ W·∂L/∂(W·diag g) over the entries that read c. So no activation is touched: between two
steps the shut entries are zero in the model's own weights, a hook on each weight's gradient gathers ∂L/∂g, and the
values behind the zeros wait here. A state dict, an average, a compiled or wrapped model and an evaluation then all see
the gated network, with nothing to be taken off.

Norms between a weight and its reader do not leak: what is off may hold anything, since nothing reads it. Two reads have
no weight. A shortcut map (`models.shortcut`) gets -1 for a shut channel, and gates its output while gradients are
wanted. A channel that only activations read, as the width of queries and keys, is shut where it is made: rows, biases
and scales. Norms that count channels (layer norm and its like) still count the shut ones in training; see `gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as active

from ..graph.coupling import VALUES, Coupling, Group
from ..graph.record import Tracer
from ..models.shortcut import Shortcut, take
from .hooks import hooked
from .score import tensors_of

READS = frozenset({"in"})
WRITES = frozenset({"out", "bias", "scale", "shift", "operand"})


def roles(group: Group) -> frozenset[str]:
    """Through which members a group is gated: what reads it, else what makes it."""
    return READS if any(m.role in READS and m.axis != VALUES for m in group.members) else WRITES


def over(line: Tensor, axis: int, dim: int) -> Tensor:
    """Values (n,) shaped to multiply axis `axis` of a tensor with `dim` axes."""
    return line.reshape([-1 if d == axis else 1 for d in range(dim)])


@dataclass(frozen=True, eq=False)
class Site:
    """A tensor with gated axes: for each, the flat index of the gate of every entry (one past the last gate: none)."""

    name: str
    tensor: Tensor
    axes: dict[int, Tensor]
    behind: Tensor  # the values, where gates are shut as they were then

    def mask(self, known: Tensor, but: int | None = None) -> Tensor:
        """0 where a gate is shut, broadcastable; known: open gates and a one, in the tensor's dtype."""
        lines = [over(known[index], axis, self.tensor.dim()) for axis, index in self.axes.items() if axis != but]
        product = lines[0] if lines else known[-1]
        for line in lines[1:]:
            product = product * line
        return product


@dataclass(frozen=True, eq=False)
class Map:
    """An index of channels: its dense values, and the gates of what they point to."""

    name: str
    tensor: Tensor
    dense: Tensor
    gate: Tensor


@dataclass(eq=False)
class Reads:
    """All places of a model where gates act. `gate` is the flat vector of all groups; `open` says which are on."""

    gate: nn.Parameter
    open: Tensor
    sites: list[Site]
    maps: list[Map]
    learning: list[bool] = field(default_factory=lambda: [True])
    handles: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, coupling: Coupling, gate: nn.Parameter) -> Reads:
        """Find them, and hook their gradients. All gates are open."""
        tensors, axes, maps = tensors_of(model), dict[str, dict[int, Tensor]](), dict[str, Map]()
        total, place, first = gate.numel(), gate.device, 0
        for group in coupling.groups:
            mine = first + torch.arange(group.width)
            chosen, first = roles(group), first + group.width
            for m in group.members:
                if m.axis == VALUES:
                    maps[m.tensor] = _map(m.tensor, tensors[m.tensor], m.positions, mine, total, maps.get(m.tensor))
                elif m.role in chosen and tensors[m.tensor].is_floating_point():
                    length = tensors[m.tensor].shape[m.axis]
                    index = axes.setdefault(m.tensor, {}).setdefault(m.axis, torch.full((length,), total))
                    index[torch.from_numpy(m.positions)] = mine[:, None]
        sites = [
            Site(name, tensors[name], {a: index.to(place) for a, index in by.items()}, tensors[name].detach().clone())
            for name, by in axes.items()
        ]
        made = cls(gate, torch.ones(total, dtype=torch.bool, device=place), sites, list(maps.values()))
        for site in sites:
            made.handles += hooked(site.tensor, made.listener(site))
        modules = [(name, module) for name, module in model.named_modules() if isinstance(module, Shortcut)]
        for found in made.maps:
            for name, module in modules:
                if f"{name}.index" == found.name:
                    feel = _felt(module, found, gate, made.open, made.learning)
                    made.handles.append(module.register_forward_hook(feel))
        return made

    def listener(self, site: Site) -> Callable[[Tensor], Tensor]:
        """What a weight's gradient passes: it is noted for the gates, and those of shut entries become 0."""
        gate, learning, now = self.gate, self.learning, self.open

        def listen(grad: Tensor) -> Tensor:
            known = torch.cat([now, now.new_ones(1)]).to(grad.dtype)
            if learning[0]:
                product = site.behind * grad
                found = torch.zeros(gate.numel() + 1, dtype=gate.dtype, device=gate.device)
                for axis, index in site.axes.items():
                    part = product if len(site.axes) == 1 else product * site.mask(known, axis)
                    rest = [d for d in range(part.dim()) if d != axis]
                    found.index_add_(0, index, (part.sum(rest) if rest else part).to(gate.dtype))
                gate.grad = found[:-1] if gate.grad is None else gate.grad + found[:-1]
            return grad * site.mask(known)

        return listen

    @torch.no_grad()
    def follow(self) -> None:
        """After a change of the model's weights: what changed in shut entries changes behind them."""
        known = torch.cat([self.open, self.open.new_ones(1)])
        for site in self.sites:
            site.behind.mul_(1 - site.mask(known.to(site.behind.dtype))).add_(site.tensor)

    @torch.no_grad()
    def shut(self, on: Tensor) -> None:
        """Open and shut gates (total,), bool: in the weights the values from behind, or zeros."""
        self.open.copy_(on)
        known = torch.cat([self.open, self.open.new_ones(1)])
        for site in self.sites:
            site.tensor.copy_(site.behind * site.mask(known.to(site.behind.dtype)))
        self._maps(known)

    @torch.no_grad()
    def hold(self) -> None:
        """Zero again what is shut, and leave what is behind as it is."""
        known = torch.cat([self.open, self.open.new_ones(1)])
        for site in self.sites:
            site.tensor.mul_(site.mask(known.to(site.tensor.dtype)))
        self._maps(known)

    def _maps(self, known: Tensor) -> None:
        for found in self.maps:
            found.tensor.copy_(torch.where(known[found.gate], found.dense, torch.full_like(found.dense, -1)))

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """The weights without their gates, by name. Call `follow` first where the optimizer stepped since."""
        return ((site.name, site.behind) for site in self.sites)

    def release(self) -> None:
        """Take the hooks off."""
        while self.handles:
            self.handles.pop().remove()


def _map(name: str, tensor: Tensor, positions: Any, mine: Tensor, total: int, known: Map | None) -> Map:
    """The map of a shortcut. `positions[c]` are the values that stand for channel c; -1 and what is fixed: no gate.
    known: the same map with the gates of another group."""
    values = torch.from_numpy(positions)
    gate_of = torch.full((max(int(values.max()), int(tensor.max())) + 2,), total)
    gate_of[values] = mine[:, None]
    gate_of[-1] = total  # the place that -1 looks up
    gate = gate_of.to(tensor.device)[tensor]
    if known is not None:
        gate = torch.where(gate == total, known.gate, gate)
    return Map(name, tensor, tensor.detach().clone(), gate)


def _felt(
    owner: Shortcut, found: Map, gate: nn.Parameter, now: Tensor, learning: list[bool]
) -> Callable[..., Tensor | None]:
    """A forward hook: the same output, made so that the gates of its channels have a gradient. A copy of the module
    takes the hook along, and there it does nothing."""

    def feel(module: Any, args: Any, out: Tensor) -> Tensor | None:
        if module is not owner or not torch.is_grad_enabled() or not learning[0]:
            return None
        if not torch.compiler.is_compiling() and any(isinstance(mode, Tracer) for mode in active()):
            return None
        x, stride = args[0], module.stride
        whole = take(x[:, :, ::stride, ::stride] if stride > 1 else x, found.dense)
        through = torch.cat([now.to(gate.dtype) + gate - gate.detach(), gate.new_ones(1)])[found.gate]
        return whole * through.to(whole.dtype).view(-1, 1, 1)

    return feel
