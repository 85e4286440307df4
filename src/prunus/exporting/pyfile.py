"""A plain Python module that makes the cut network: the whole one, then each changed layer with its width written out.

Beside it lie the weights, a dict of tensors that torch reads without running what a file says. The module needs torch
and the code of the network, and Prunus only where that code does.
"""

from __future__ import annotations

import keyword
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..errors import ExportError, InputError
from ..models import dropped
from .carried import Carried, carried
from .changes import Changes, changes
from .given import Given
from .origin import Origin, literal
from .program import Run

SECONDS = 600
"""How long the written file may take to load and run."""

MARK = "Written by Prunus"
"""In the first line of a file, by which the next export knows it."""

RUNNER = """
import runpy, sys, torch
from torch.utils._pytree import tree_iter

file, inputs, outputs = sys.argv[1:]
model = runpy.run_path(file)["load"]()
results = []
with torch.no_grad():
    for example in torch.load(inputs, weights_only=True):
        if isinstance(example, dict):
            found = model(**example)
        else:
            found = model(*example) if isinstance(example, tuple) else model(example)
        results.append([t for t in tree_iter(found) if isinstance(t, torch.Tensor)])
torch.save(results, outputs)
"""
"""Run by a fresh interpreter, which knows nothing of the network but what the file says."""

MIXED = (
    "    for name, held in model.state_dict(keep_vars=True).items():",
    "        if isinstance(held, torch.Tensor):",
    "            held.data = held.detach().to(tensors[name].dtype)",
)
"""Each tensor in the dtype that it has in the file."""

RESIZE = '''

def resize(model: nn.Module, name: str, *shape: int) -> None:
    """Give a parameter or buffer another shape; its values come with the weights."""
    path, _, own = name.rpartition(".")
    layer = model.get_submodule(path)
    old = getattr(layer, own)
    new = torch.empty(shape) if old is None else old.detach().new_empty(shape)
    setattr(layer, own, new if name in dict(model.named_buffers()) else nn.Parameter(new))
'''

CONFIGURE = '''

def configure(model: nn.Module, path: str, name: str, entries: dict) -> None:
    """Give a module settings of its own, in which these entries are others."""
    layer = model.get_submodule(path)
    settings = copy.copy(getattr(layer, name))
    (settings if isinstance(settings, dict) else vars(settings)).update(entries)
    setattr(layer, name, settings)
'''


def write_python(given: Given, path: Path, origin: Origin) -> tuple[tuple[Path, ...], Run]:
    """Write the module and its weights, and give what runs them. Raises ExportError, InputError."""
    weights = weights_of(path)
    whole = origin.built()
    found = changes(whole, given.model, f"{origin.module}.{origin.name}({origin.call})")
    path.write_text(code(given.model, whole, origin, found, weights.name, path.stem), encoding="utf-8")
    torch.save(state(given.model, found.loose), weights)
    return (path, weights), lambda examples: in_python(path, origin, examples)


def weights_of(path: Path) -> Path:
    """Where the weights of a module lie."""
    return path.with_name(f"{path.stem}_weights.pt")


def check_place(path: Path, origin: Origin) -> None:
    """Raises InputError for a name that cannot be imported, or hides what the file imports, and where the files would
    go over one that is not an earlier export."""
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise InputError(f"a Python file is imported by its name, and {path.stem!r} is none")
    if path.stem in {"torch", origin.module.split(".")[0], *sys.stdlib_module_names}:
        raise InputError(f"{path.name} would hide the module {path.stem} that it imports itself; give another name")
    try:
        ours = path.is_file() and MARK.encode() in path.read_bytes()[:1000]
    except OSError:
        ours = False
    for file in (path, weights_of(path)):
        if file.is_file() and not ours:
            raise InputError(f"{file} is there and was not written by prunus.export; move it, or give another name")


def state(model: nn.Module, loose: list[str]) -> dict[str, Any]:
    """The state dict, each tensor with memory of its own size; a parameter under several names is stored once."""
    kept: dict[int, Tensor] = {}
    buffers = dict(model.named_buffers())
    found = {**model.state_dict(keep_vars=True), **{name: buffers[name] for name in loose}}

    def alone(value: Any) -> Any:
        return kept.setdefault(id(value), value.detach().clone()) if isinstance(value, Tensor) else value

    return {name: alone(value) for name, value in found.items()}


def code(model: nn.Module, whole: nn.Module, origin: Origin, found: Changes, weights: str, stem: str) -> str:
    """The text of the module."""
    taken = carried([(dropped.__name__, name) for name in sorted(found.branches)])
    call = f"full({origin.call})"
    if origin.module.split(".")[0] == "prunus":
        taken.add(origin.module, origin.name)
        call = f"{origin.name}({origin.call})"
    else:
        taken.imports.add((origin.module, origin.name, "full"))
    return "\n".join(
        [*head(type(model).__name__, origin, found, taken, weights, stem), *body(model, whole, call, found)]
    )


def head(name: str, origin: Origin, found: Changes, taken: Carried, weights: str, stem: str) -> list[str]:
    """Docstring, imports, and what is taken along."""
    own = origin.module.split(".")[0] == "prunus"
    needs = "torch" if own else f"torch and {origin.module}"
    taken.imports |= {("pathlib", "Path", "Path"), ("torch", "", "torch"), ("torch", "nn", "nn")}
    if found.configures:
        taken.imports.add(("copy", "", "copy"))
    told = name if name.isidentifier() and name.isascii() else "A network"
    lines = [
        f'"""{told}, cut: {found.modules} modules differ from the whole network. {MARK} {__version__}.',
        "",
        f"    from {stem} import load",
        "",
        f"    model = load()  # with the weights in {weights}, in eval mode",
        "",
        f"Needs {needs}.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *taken.statements(),
        "",
        f"WEIGHTS = Path(__file__).with_name({literal(weights)})",
    ]
    for text in taken.text.values():
        lines += ["", "", text]
    return lines


def body(model: nn.Module, whole: nn.Module, call: str, found: Changes) -> list[str]:
    """The two functions of the file, and those that it needs where tensors change their shape, or settings a number."""
    loose = [f"    model.get_buffer({literal(name)}).data = tensors.pop({literal(name)})" for name in found.loose]
    dtype = own_dtype(model)
    return [
        "",
        "",
        "def load(weights: str | Path = WEIGHTS) -> nn.Module:",
        '    """The cut network with its weights, in eval mode."""',
        "    model = network()",
        '    tensors = torch.load(weights, map_location="cpu", weights_only=True)',
        *loose,
        *(MIXED if mixed(model, dtype) else []),
        "    model.load_state_dict(tensors)",
        "    return model.eval()",
        "",
        "",
        "def network() -> nn.Module:",
        '    """The whole network, then what was cut, with the widths that are left. The weights are random."""',
        f"    model = {call}",
        *(f"    {line}" for line in found.lines),
        *([f"    model.to({dtype})"] if dtype != own_dtype(whole) else []),
        "    return model",
        *([RESIZE] if found.resizes else []),
        *([CONFIGURE] if found.configures else []),
        *([] if found.resizes or found.configures else [""]),
    ]


def mixed(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether some of the state is of another width than the parameters."""
    found = (t for t in model.state_dict().values() if isinstance(t, Tensor) and t.is_floating_point())
    return any(t.dtype != dtype for t in found)


def own_dtype(model: nn.Module) -> torch.dtype:
    """That of the parameters; float32 where they differ, or there are none."""
    found = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def in_python(path: Path, origin: Origin, examples: list[Any]) -> list[list[Tensor]]:
    """Load the file in a fresh interpreter and run it."""
    folders = [*([str(origin.folder)] if origin.folder else []), *map(os.path.abspath, sys.path)]
    with tempfile.TemporaryDirectory() as place:
        inputs, outputs = Path(place, "inputs.pt"), Path(place, "outputs.pt")
        torch.save(examples, inputs)
        done = subprocess.run(
            [sys.executable, "-c", RUNNER, str(path.absolute()), str(inputs), str(outputs)],
            capture_output=True,
            text=True,
            cwd=place,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"python, loading the file in a fresh process: {last[:300]}")
        found: list[list[Tensor]] = torch.load(outputs, weights_only=True)
        return found
