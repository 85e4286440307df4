"""The pages of the Python reference, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType

from verbpages import escaped

MODULES: Mapping[str, str] = {
    "prunus": "What most programs need. `import prunus` brings in no torch; each name loads on first use.",
    "prunus.methods": "",
    "prunus.repair": "",
    "prunus.engine.config": "",
    "prunus.engine.runtime": "",
    "prunus.engine.data": "",
    "prunus.engine.loop": "",
    "prunus.graph": "",
    "prunus.models": "",
    "prunus.testing": "",
    "prunus.errors": "",
}
"""The documented modules, each by what its `__all__` names; and what stands above, where that is not its docstring."""

PAGES = tuple("python" + name.removeprefix("prunus").replace(".", "-") for name in MODULES)
WIDE = 100
COLUMN = re.compile(r"(\w+(?:, \w+)*) {2,}(?=\S)")


def pages() -> dict[str, str]:
    """Name of the page -> Markdown."""
    return {page: module_page(name) for page, name in zip(PAGES, MODULES, strict=True)}


def module_page(name: str) -> str:
    """A module: its own words, then what it offers."""
    module = import_module(name)
    intro = MODULES[name] or markdown(module.__doc__ or "")
    return "\n\n".join([f"# {name}", intro, *(entry(module, one) for one in documented(module))]) + "\n"


def documented(module: ModuleType) -> Iterator[str]:
    """The public names that have something to say: functions and classes."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name


def entry(module: ModuleType, name: str) -> str:
    """A function or class with all that is public in it."""
    value = getattr(module, name)
    head, takes = signature(value, f"{module.__name__}.{name}")
    parts = [f"## {name}", code(head), markdown(own_doc(value), takes)]
    if inspect.isclass(value):
        for part, member in members(value):
            text = inspect.getdoc(member) or ""
            if isinstance(member, property):
                parts += [f"### {name}.{part}", markdown(text)]
            else:
                head, takes = signature(member, part)
                parts += [f"### {name}.{part}()", code(head), markdown(text, takes)]
    return "\n\n".join(part for part in parts if part)


def own_doc(value: object) -> str:
    """The docstring that the code has; not the one that dataclasses make up."""
    text = inspect.getdoc(value) or ""
    return "" if inspect.isclass(value) and text.startswith(f"{value.__name__}(") else text


def members(kind: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties with a docstring, those of Prunus's own base classes too."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("prunus"):
            continue
        for name, raw in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            member = raw if isinstance(raw, property) else getattr(kind, name, None)
            if isinstance(raw, (property, staticmethod, classmethod)) or inspect.isfunction(raw):
                seen.add(name)
                if inspect.getdoc(member):
                    yield name, member


def signature(value: object, name: str) -> tuple[str, list[str]]:
    """`name(arguments) -> result` as the code has it, broken where it is wide; and the names of the arguments."""
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name, []
    words, last = [], None
    for argument in found.parameters.values():
        if argument.name == "self":
            continue
        if argument.kind is argument.KEYWORD_ONLY and last not in (argument.KEYWORD_ONLY, argument.VAR_POSITIONAL):
            words.append("*")
        last = argument.kind
        star = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}.get(argument.kind, "")
        kind = "" if argument.annotation is argument.empty else f": {typed(argument.annotation)}"
        equal = " = " if kind else "="
        default = "" if argument.default is argument.empty else f"{equal}{shown(argument.default)}"
        words.append(f"{star}{argument.name}{kind}{default}")
    result = "" if found.return_annotation in (found.empty, None, "None") else f" -> {typed(found.return_annotation)}"
    text = f"{name}({', '.join(words)}){result}"
    if len(text) > WIDE:
        text = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){result}"
    return text, [argument for argument in found.parameters if argument != "self"]


def typed(annotation: object) -> str:
    """An annotation as it was written."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def shown(default: object) -> str:
    """A default as it is typed; an ellipsis for one that is made anew each time, or has no short form."""
    text = repr(default)
    return "..." if "<" in text or len(text) > WIDE else text


def code(text: str) -> str:
    return f"```python\n{text}\n```"


def markdown(doc: str, names: Sequence[str] = ()) -> str:
    """A docstring as Markdown: indented paragraphs and trees become code, `argument: …` becomes an item of a list.

    names: of the arguments, by which such items are known inside a paragraph.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    return "\n\n".join(paragraph(text, names) for text in paragraphs if text.strip())


def paragraph(text: str, names: Sequence[str]) -> str:
    lines = text.splitlines()
    if "├" in text or all(line.startswith("    ") for line in lines):
        return f"```text\n{inspect.cleandoc(text)}\n```"
    if lines[0].startswith("- "):
        return "\n".join("- " + escaped(line[2:]) if line.startswith("- ") else escaped(line) for line in lines)
    if COLUMN.match(lines[0]):  # names on the left, what they are on the right
        joined = re.sub(r"\n\s+", " ", text).splitlines()
        return "\n".join(item(COLUMN.sub(r"\1: ", line, count=1)) for line in joined)
    one = "|".join(map(re.escape, names)) or "(?!)"
    whole, raises, tail = " ".join(map(str.strip, lines)).partition(" Raises ")
    found = re.split(rf"(?:^|(?<=[.)]) )(?=(?:{one})(?:(?:, | and )(?:{one}))*: )", whole)
    last = f"\n\n{escaped(raises.strip() + ' ' + tail)}" if raises else ""
    return "\n".join([escaped(found[0]), *map(item, found[1:])]).strip() + last


def item(text: str) -> str:
    """`name: what it is` as an item of a list."""
    name, _, rest = text.partition(": ")
    return f"- `{name}`: {escaped(rest)}"
