"""What makes the whole network the cut one: layers of other widths, tensors of other shapes, numbers that modules keep.

Found by comparing the two module by module, so that no plan is needed, nor whatever reads one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from keyword import iskeyword

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..configs import attributes
from ..errors import InputError
from ..models.dropped import Blank, Passed, Zero, ZeroAttention
from .origin import literal

STANDS_FOR_NOTHING = (Zero, ZeroAttention, Blank, Passed)
"""The modules of dropped branches."""
PLAIN = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.PReLU, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Sigmoid),
)
"""Layers whose constructor takes what their attributes say."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


@dataclass
class Changes:
    """Lines of code for `model`, the whole network; how many modules they change; which classes of dropped branches
    they use; and non-persistent buffers whose values no constructor gives."""

    lines: list[str] = field(default_factory=list)
    modules: int = 0
    branches: set[str] = field(default_factory=set)
    resizes: bool = False
    configures: bool = False
    loose: list[str] = field(default_factory=list)


def changes(whole: nn.Module, cut: nn.Module, made_by: str) -> Changes:
    """The changes. Raises InputError where `whole` is another network than the one that was cut."""
    found, seen, paths = Changes(), set[int](), dict[int, int]()
    for _, module in cut.named_modules(remove_duplicate=False):
        paths[id(module)] = paths.get(id(module), 0) + 1
    ties = tied(cut)
    kept = {id(p) for names in ties for p in (cut.get_parameter(names[0]),)}

    def walk(path: str, one: nn.Module, other: nn.Module) -> None:
        if id(other) in seen:  # the same module under another name
            return
        seen.add(id(other))
        if type(one).__qualname__ != type(other).__qualname__:
            replacement = call_of(other)
            if replacement is None:
                raise other_network(made_by, f"{path or 'it'} is a {type(one).__name__}, not a {type(other).__name__}")
            if isinstance(other, STANDS_FOR_NOTHING):
                found.branches.add(type(other).__name__)
            add(path, [f"model.set_submodule({literal(path)}, {replacement})"])
            return
        if own := own_changes(path, one, other, made_by):
            sole = paths[id(other)] == 1 and not any(id(p) in kept for p in other._parameters.values())
            replacement = call_of(other) if sole and path and not hooked(one) else None
            if replacement is not None:
                own = [f"model.set_submodule({literal(path)}, {replacement})"]
            found.resizes = found.resizes or any(line.startswith("resize(") for line in own)
            found.configures = found.configures or any(line.startswith("configure(") for line in own)
            add(path, own)
        below = (
            {n for n, m in one._modules.items() if m is not None},
            {n for n, m in other._modules.items() if m is not None},
        )
        for name in sorted(below[0] ^ below[1]):
            told = "has no" if name in below[1] else "has a module"
            raise other_network(made_by, f"{path or 'it'} {told} {name}")
        for name, child in other._modules.items():
            if child is not None:
                walk(f"{path}.{name}" if path else name, one.get_submodule(name), child)

    def add(path: str, lines: list[str]) -> None:
        found.lines += lines
        found.modules += 1

    walk("", whole, cut)
    changed = {name for name, shape in shapes(cut).items() if shapes(whole).get(name) != shape}
    for first, *others in ties:
        if changed & {first, *others}:
            found.lines += [assigned(name, f"model.get_parameter({literal(first)})") for name in others]
    persistent, before = set(cut.state_dict()), dict(whole.named_buffers())
    for name, buffer in cut.named_buffers():
        if name not in persistent and (name not in before or not alike(before[name], buffer)):
            found.loose.append(name)
    return found


def own_changes(path: str, one: nn.Module, other: nn.Module, made_by: str) -> list[str]:
    """Lines for the tensors and the numbers of one module."""
    lines = []
    for held, theirs in ((one._parameters, other._parameters), (one._buffers, other._buffers)):
        for name, tensor in theirs.items():
            full = f"{path}.{name}" if path else name
            old = held.get(name)
            if tensor is None and old is not None:
                lines.append(assigned(full, "None"))
            elif tensor is not None and (old is None or shape_of(old) != shape_of(tensor)):
                if name not in held:
                    raise other_network(made_by, f"{path or 'it'} has no tensor {name}")
                lines.append(f"resize(model, {literal(full)}, {', '.join(map(str, tensor.shape))})")
        for name in held.keys() - theirs.keys():
            raise other_network(made_by, f"{path or 'it'} has a tensor {name}")
    before, after = plain(one), plain(other)
    settings: dict[str, list[str]] = {}
    for name, code in after.items():
        if before.get(name) == code or (name not in before and name in attributes(one)):
            continue
        owner, _, entry = name.partition(".")
        if entry:
            settings.setdefault(owner, []).append(f"{literal(entry)}: {code}")
        else:
            lines.append(assigned(f"{path}.{name}" if path else name, code))
    for owner, entries in settings.items():
        lines.append(f"configure(model, {literal(path)}, {literal(owner)}, {{{', '.join(entries)}}})")
    return lines


def plain(module: nn.Module) -> dict[str, str]:
    """The attributes of a module that can be written down, as code, and the entries of its settings: `config.heads`."""
    found = {}
    for name, value in attributes(module).items():
        if name.startswith("_") or name == "training" or not name.partition(".")[0].isidentifier():
            continue
        try:
            found[name] = literal(value)
        except InputError:  # an object; a constructor makes it
            continue
    return found


def call_of(layer: nn.Module) -> str | None:
    """The code that makes this layer, with any values; None where no constructor says all of it."""
    if type(layer) not in (*PLAIN, *STANDS_FOR_NOTHING) or layer._modules:
        return None
    words: list[str] = []
    arguments: list[object] = []
    options: dict[str, object] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if name in ("device", "dtype", "_weight", "_freeze", "args", "kwargs"):
            continue
        value = getattr(layer, name, None)
        if isinstance(value, Tensor) or (name == "bias" and value is None):
            value = value is not None
        if isinstance(value, tuple) and name in ("kernel_size", "stride", "padding", "dilation", "output_padding"):
            value = value[0] if len(set(value)) == 1 else value
        if parameter.default is inspect.Parameter.empty:
            arguments.append(value)
            words.append(literal(value))
        elif value != parameter.default:
            options[name] = value
            words.append(f"{name}={literal(value)}")
    with torch.device("meta"):
        again = type(layer)(*arguments, **options)
    if plain(again) != plain(layer) or shapes(again) != shapes(layer):
        return None
    home = "" if isinstance(layer, STANDS_FOR_NOTHING) else "nn."
    return f"{home}{type(layer).__name__}({', '.join(words)})"


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    found = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: shape_of(tensor) for name, tensor in found}


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """None of a lazy module has one yet; then (-1,), which is no other's."""
    return (-1,) if is_lazy(tensor) else tuple(tensor.shape)


def tied(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that several modules hold."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    return [found for found in names.values() if len(found) > 1]


def hooked(module: nn.Module) -> bool:
    return any(getattr(module, name, None) for name in HOOKS)


def assigned(name: str, code: str) -> str:
    """The line that gives an attribute of a module, by its dotted name, this value."""
    path, _, own = name.rpartition(".")
    owner = f"model.get_submodule({literal(path)})" if path else "model"
    if own.isascii() and own.isidentifier() and not iskeyword(own):
        return f"{owner}.{own} = {code}"
    return f"setattr({owner}, {literal(own)}, {code})"


def alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one.cpu(), other.cpu()))


def other_network(made_by: str, why: str) -> InputError:
    return InputError(f"{made_by} makes another network than the one that was cut: {why} there; give build=")
