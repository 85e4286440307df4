"""The user's model and example, run and copied without a trace: modes, buffers and random states are put back."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_iter, tree_map

from .errors import ExampleError, ModelError

P = ParamSpec("P")
R = TypeVar("R")


def call_model(model: nn.Module, example: Any) -> Any:
    """The model on a tensor, a tuple of positional inputs or a dict of keyword inputs."""
    if isinstance(example, Mapping):
        check_keywords(model, example)
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def check_keywords(model: nn.Module, example: Mapping[Any, Any]) -> None:
    """Raises ExampleError where a dict's keys are no inputs of the model's forward, with what else may be meant."""
    try:
        takes = inspect.signature(model.forward)
    except ValueError:  # it has none
        return
    try:
        takes.bind(**example)
    except TypeError as error:
        keys, inputs = (", ".join(map(str, names)) for names in (example, takes.parameters))
        raise ExampleError(
            f"a dict is given as keyword inputs, and its keys ({keys}) are not the inputs of "
            f"{type(model).__name__}.forward ({inputs}); where the model takes the dict itself, give a tuple of one"
        ) from error


REENTRANT = "CheckpointFunction"
GENERATOR = "_checkpoint_without_reentrant_generator"  # what a region starts and ends with; torch 2.13 has two


@contextlib.contextmanager
def uncheckpointed() -> Iterator[None]:
    """Regions under `torch.utils.checkpoint` run as plain code: run again in a backward, they would be seen by no mode
    that was on in the forward, and update running statistics twice."""

    class Plain:
        @staticmethod
        def apply(function: Any, preserve: Any, *args: Any) -> Any:
            return function(*args)

    found = vars(torch.utils.checkpoint)
    stand_ins: dict[str, Any] = {name: Plain for name in found if name == REENTRANT}
    stand_ins |= {name: lambda *_, **__: iter((None,)) for name in found if name.startswith(GENERATOR)}
    was = {name: found[name] for name in stand_ins}
    found.update(stand_ins)
    try:
        yield
    finally:
        found.update(was)


def plain_table(example: Any) -> Any:
    """A mapping of another kind, such as what a tokenizer gives, as a dict; all else as it is."""
    return dict(example) if isinstance(example, Mapping) and type(example) is not dict else example


def example_tensors(example: Any) -> list[Tensor]:
    """The tensors of an example. Raises ExampleError for what is none."""
    if not isinstance(example, (Tensor, tuple, Mapping)):
        kind = type(example).__name__
        raise ExampleError(
            f"an example is a tensor, a tuple of positional inputs or a dict of keyword inputs, not {kind}"
        )
    found = [t for t in tree_iter(example) if isinstance(t, Tensor)]
    if not found:
        hint = "; pass dict(example)" if isinstance(example, Mapping) and type(example) is not dict else ""
        raise ExampleError(f"the example holds no tensor (got {type(example).__name__}){hint}")
    return found


def modules_of(model: nn.Module, *, again: bool = False) -> list[tuple[str, nn.Module]]:
    """Paths and modules in the order of `named_modules`, in one list: that method takes as many generators as modules
    are nested. again: a module that has several paths comes at each."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    todo: list[tuple[str, nn.Module]] = [("", model)]
    while todo:
        place = todo.pop()
        path, module = place
        if again or id(module) not in seen:
            seen.add(id(module))
            found.append(place)
            if children := module._modules:  # most have none
                prefix = path + "." if path else ""
                todo += [(prefix + name, child) for name, child in reversed(children.items()) if child is not None]
    return found


def tensors_of(model: nn.Module, *, buffers: bool = True) -> dict[str, Tensor]:
    """Parameters, then buffers, by every name that they have."""
    every = [(path + "." if path else "", module) for path, module in modules_of(model, again=True)]
    found: dict[str, Tensor] = {}
    found |= {f"{at}{name}": t for at, m in every for name, t in m._parameters.items() if t is not None}
    if buffers:
        found |= {f"{at}{name}": t for at, m in every for name, t in m._buffers.items() if t is not None}
    return found


def ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name after the first of one tensor, that first name."""
    first: dict[int, str] = {}
    return {n: first[id(t)] for n, t in tensors.items() if first.setdefault(id(t), n) != n}


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if value is None or isinstance(value, (int, float, str)):
        return []
    if type(value) in (tuple, list):
        return [t for item in value for t in tensors_in(item)]
    if type(value) is dict:
        return [t for item in value.values() for t in tensors_in(item)]
    return [t for t in tree_iter(value) if isinstance(t, Tensor)]


def fresh(example: Any) -> Any:
    """A copy of the example: a model may write into its inputs."""
    return tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, example)


def copied(model: nn.Module, tensors: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy. Activations that a module keeps as attributes are copied as plain values; hooks and functions that
    close over parts of the model close over those of the copy. `tensors`: what stands in the copy for a tensor of the
    model, by its id."""
    memo: dict[int, Any] = dict(tensors or {})
    modules = [module for _, module in modules_of(model)]
    for value in kept_values(modules):
        if not value.is_leaf and id(value) not in memo:
            memo[id(value)] = value.detach().clone()
    memo |= {id(t): t.clone() for t in statistics(modules) if id(t) not in memo}
    kinds: list[Any] = [type(module) for module in modules]
    twins = [(module, kind.__new__(kind)) for module, kind in zip(modules, kinds, strict=True) if is_plain(kind)]
    memo |= {id(module): twin for module, twin in twins}
    for module, twin in reversed(twins):  # inner modules first
        found: dict[str, Any] = {}
        for name, value in vars(module).items():
            if value.__class__ in ATOMS:
                found[name] = value
            elif name in TABLES and not value:
                found[name] = value.__class__()
            elif name != COMPILED:
                found[name] = copied_value(value, memo)
        twin.__setstate__(found)
    twin = copy.deepcopy(model, memo)
    for module in modules:
        if id(module) in memo:
            rebind(memo[id(module)], memo)
    return twin


def statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Buffers of norms that share memory with nothing else: their copy is a clone, in a tenth of a deep copy's time."""
    norms = [module for module in modules if isinstance(module, _NormBase)]
    found = {id(t): t for module in norms for t in module._buffers.values() if type(t) is Tensor}.values()
    whole = [t for t in found if t.layout == torch.strided and t.untyped_storage().nbytes() == t.nbytes]
    places = Counter(t.untyped_storage()._cdata for t in whole)
    return [t for t in whole if places[t.untyped_storage()._cdata] == 1 and not t.requires_grad]


COMPILED = "_compiled_call_impl"  # of a module, which `nn.Module.__getstate__` leaves out too


TABLES = frozenset(name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict)
"""Hooks of a module: a dozen tables, most often empty."""
OWN = frozenset(vars(nn.Module()))
"""Attributes of every module, its tensors and modules among them."""
STORES = frozenset([list, tuple, dict, OrderedDict])
ATOMS = frozenset([type(None), bool, int, float, str])


@functools.lru_cache(maxsize=1024)
def is_plain(kind: type) -> bool:
    """Whether `copy.deepcopy` copies what `vars` shows of such a module, and does nothing else."""
    own = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__new__", "__slots__")
    return all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in own)


def copied_value(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, at once where there is little to copy."""
    if type(value) is tuple and all(type(item) in ATOMS for item in value):
        return value
    if type(value) in (dict, OrderedDict, set, list) and not value and id(value) not in memo:
        memo[id(value)] = type(value)()
    elif type(value) is dict and id(value) not in memo and all(id(v) in memo or v is None for v in value.values()):
        memo[id(value)] = {name: memo[id(v)] if v is not None else None for name, v in value.items()}
    return memo[id(value)] if id(value) in memo else copy.deepcopy(value, memo)


def kept_values(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Tensors that modules keep as attributes, or in lists and dictionaries that are such."""
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield value
            elif value and type(value) in STORES and name not in OWN:
                for item in value.values() if isinstance(value, dict) else value:
                    if isinstance(item, Tensor):
                        yield item


def rebind(twin: nn.Module, memo: dict[int, Any]) -> None:
    """Functions that a copied module holds, as hooks or in place of its forward, are made to mean the copy."""
    for name, value in list(vars(twin).items()):
        if type(value) is FunctionType:
            vars(twin)[name] = rebound(value, memo)
        elif name in TABLES and value:
            for key, hook in value.items():
                value[key] = rebound(hook, memo)


def rebound(function: Any, memo: dict[int, Any]) -> Any:
    """A function over the copies of what it closes over or has as defaults; itself where nothing of that was copied."""
    if type(function) is not FunctionType:
        return function
    closed, given = function.__closure__ or (), function.__defaults__ or ()
    named = function.__kwdefaults__ or {}
    was = [*map(contents, closed), *given, *named.values()]
    now = [standing(value, memo) for value in was]
    if all(a is b for a, b in zip(was, now, strict=True)):
        return function
    cells = tuple(CellType() if value is EMPTY else CellType(value) for value in now[: len(closed)])
    defaults = tuple(now[len(closed) : len(closed) + len(given)])
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
    twin.__kwdefaults__ = dict(zip(named, now[len(closed) + len(given) :], strict=True))
    return functools.wraps(function)(twin)


def standing(value: Any, memo: dict[int, Any]) -> Any:
    """What stands for a value in the copy; a list of what was copied is a list of the copies."""
    if id(value) not in memo and type(value) in (list, tuple) and any(id(item) in memo for item in value):
        memo[id(value)] = type(value)(memo.get(id(item), item) for item in value)
    return memo.get(id(value), value)


EMPTY = object()


def contents(cell: CellType) -> Any:
    """What a closure holds; EMPTY where nothing was put there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


@contextlib.contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """Put back the random states of torch, Python and NumPy, whatever runs inside."""
    state, drawn = random.getstate(), np.random.get_state()
    found = {t.device for _, m in modules_of(model) for t in m._parameters.values() if t is not None}
    try:
        with torch.random.fork_rng(devices=[device for device in found if device.type == "cuda"]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(drawn)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage in cycles: what is made inside are many small objects that stay, and with each search for
    them go all objects of the process."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def outside_inference(function: Callable[P, R]) -> Callable[P, R]:
    """Called under inference mode, it runs under no_grad in its place: what it makes can be trained afterwards. Else it
    runs as it is called; torch's own decorator would turn gradients on."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


def seeded() -> None:
    """The same random numbers for every forward that is compared with another."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def drawn(model: nn.Module) -> tuple[Any, ...]:
    """The random states, to be compared: they differ once something was drawn."""
    devices = {t.device for t in model.parameters() if t.device.type == "cuda"}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in sorted(devices, key=str))]
    kind, words, *rest = np.random.get_state(legacy=True)
    return (*(bytes(t.numpy()) for t in states), random.getstate(), kind, bytes(np.asarray(words)), *rest)


@contextlib.contextmanager
def as_found(model: nn.Module, *, values: bool = True) -> Iterator[None]:
    """Put back mode, buffers, tensors kept as attributes and every random state, whatever runs inside. The `values` of
    buffers may be left, where they do not count."""
    modules = [module for _, module in modules_of(model)]
    modes = [(module, module.training) for module in modules]
    kept = [held_by(module) for module in modules]
    stores = [(store, store.copy()) for module in modules for store in stores_of(module)]
    buffers = [(owner, dict(owner._buffers)) for owner in modules if owner._buffers]
    written = (*model.buffers(), *renormed(modules)) if values else ()
    saved = [(t, t.detach().clone(), t._version) for t in written if not t.is_inference()]
    try:
        with same_draws(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, held in zip(modules, kept, strict=True):
            for name in [name for name, value in held_by(module).items() if held.get(name) is not value]:
                del vars(module)[name]
            vars(module).update(held)
        for store, had in stores:
            if len(store) != len(had) or any(a is not b for a, b in zip(items(store), items(had), strict=True)):
                store.clear()
                (store.update if isinstance(store, dict) else store.extend)(had)
        for owner, found in buffers:
            owner._buffers.clear()
            owner._buffers.update(found)
        with torch.no_grad():
            for tensor, value, version in saved:
                # Batch norm writes its statistics without a new version.
                if tensor._version != version or not (tensor.is_meta or torch.equal(tensor, value)):
                    tensor.copy_(value)


def stores_of(module: nn.Module) -> list[Any]:
    """Dictionaries and lists that a module keeps, as a cache of what a forward computed."""
    return [v for name, v in vars(module).items() if type(v) in (dict, OrderedDict, list) and not name.startswith("_")]


def items(store: Any) -> Iterable[Any]:
    return store.values() if isinstance(store, dict) else store


def renormed(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters that a forward writes to: those of embeddings with a largest norm."""
    for module in modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            yield module.weight


def held_by(module: nn.Module) -> dict[str, Tensor]:
    """Tensors that a module keeps as attributes."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's module inside compiled, DataParallel and DDP wrappers. Raises ModelError for what is no module."""
    if not isinstance(model, nn.Module):
        held = isinstance(getattr(model, "model", None), nn.Module)  # what prune, load or finish returned
        hint = "; pass its .model" if held else ""
        raise ModelError(f"a model is a torch.nn.Module, not {type(model).__name__}{hint}")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model
