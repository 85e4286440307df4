"""A recipe: one TOML file that describes an experiment, from the network and the data to the seeds.

Its sections are the settings that Python and the command line take: `Fit`, `Runtime` and `Cut` themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from prunus.engine.config import Fit
from prunus.engine.runtime import Runtime
from prunus.engine.watch import TRACKERS
from prunus.errors import InputError, UnknownName
from prunus.lab.extends import KEY, whole
from prunus.lab.job import Cut, checked, configured

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Finetune",
    "Model",
    "Recipe",
    "Source",
    "Sparsity",
    "changed",
    "load",
    "only_fit",
    "override",
    "read",
    "value_of",
    "variant",
]

_OF_NAMES = ("rates", "widths")
"""Tables whose keys are names of layers, in which a dot parts nothing."""
STAGES = "stages"
TAKEN = (STAGES, "networks", "checkpoints")
_LONGEST = 200

PUBLISHED = "published (test set)"
"""How results are labelled whose epochs were chosen on the test part."""


@dataclass(frozen=True)
class Model:
    """Which network.

    name        resnet56, torchvision/resnet50, timm/NAME or path/file.py:factory
    classes     size of the classifier; left out: the data's number of classes
    weights     a checkpoint of the network at full size; with it no baseline is trained
    stem        input channels that the first convolution is replaced for; left out: the data's, where it is not 3
    """

    name: str
    classes: int | None = None
    weights: str | None = None
    stem: int | None = None


@dataclass(frozen=True)
class Source:
    """Which data, and what it is used for.

    path        digits, a folder of parquet files or images, an .npz, a hub id or path/file.py:factory
    mean        per channel, in units of 0..1; left out: of the train part
    std         per channel, as the mean
    resize      shorter side to S (or R), then the S x S pixels of the centre
    validation  share of each class that is held out of the train part, to choose epochs by
    selection   "published" chooses by the test part instead, as many papers do, and labels all results so
    limit       at most so many images of each part, evenly of all classes
    stream      read from files while training, instead of from memory
    workers     processes that decode streamed images; left out: one a core
    skip_bad    leave out images that do not decode, and say which
    """

    path: str = "digits"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    validation: float = 0.0
    selection: Literal["validation", "published"] = "validation"
    limit: int | None = None
    stream: bool = False
    workers: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise InputError(f"validation={self.validation} must be a fraction of at least 0 and below 1")
        if self.validation and self.published:
            raise InputError("selection='published' chooses by the test part; leave validation out")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers={self.workers} must be at least 0")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit={self.limit} must be at least 1")

    @property
    def published(self) -> bool:
        """Whether the test part makes the choices."""
        return self.selection == "published"


@dataclass(frozen=True)
class Sparsity(Fit):
    """Training that prepares the cut; all of [train], and

    method      whose penalty or gates are trained (see `prunus methods`)
    options     settings of the method, such as lam = 1e-4
    target      the budget to train towards, for methods that need one
    rates       instead of a target, for methods that train at given widths; as in [prune]
    rates_layout  what the entries of rates mean, as in [prune]
    keep_rule   how a width is rounded down, as in [prune]
    """

    method: str = "slimming"
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    rates: str | Mapping[str, float] | None = None
    rates_layout: str = "published"
    keep_rule: str = "exact"


@dataclass(frozen=True)
class Finetune(Fit):
    """Training after the cut; all of [train], and

    teacher     distil from the network at full size (see distil)
    """

    teacher: bool = False


@dataclass(frozen=True)
class Recipe:
    """An experiment. A section that is left out is a stage that is left out.

    name        of the run's folder
    model       which network
    data        which data
    task        "classification", or path/file.py:Task
    seed        of everything random
    seeds       several: one chain of stages for each, and a summary
    trackers    tensorboard, mlflow, wandb
    checkpoint_every  steps between two checkpoints; the end of an epoch always has one
    runtime     device, precision, memory layout
    train       training at full size: the baseline
    sparsity    training that prepares the cut
    prune       the cut
    finetune    training after it
    smoke       settings of a small variant, to see that all of it runs: `--smoke`
    """

    name: str
    model: Model
    data: Source = field(default_factory=Source)
    task: str = "classification"
    seed: int = 0
    seeds: tuple[int, ...] = ()
    trackers: tuple[str, ...] = ()
    checkpoint_every: int = 0
    runtime: Runtime = field(default_factory=Runtime)
    train: Fit | None = None
    sparsity: Sparsity | None = None
    prune: Cut | None = None
    finetune: Finetune | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise InputError(f"name: {self.name!r} names a folder; use letters, digits, '.', '-' and '_'")
        if self.name in TAKEN or len(self.name.encode()) > _LONGEST:
            why = (
                "is the name of a folder that holds no runs"
                if self.name in TAKEN
                else f"has more than {_LONGEST} bytes"
            )
            raise InputError(f"name: {self.name!r} {why}; take another")
        if self.seeds and self.seed:
            raise InputError("seed and seeds are both given; one of them says which")
        if min(self.all_seeds) < 0 or len(set(self.all_seeds)) < len(self.all_seeds):
            raise InputError(f"seeds: {list(self.all_seeds)} must be different whole numbers of at least 0")
        if self.checkpoint_every < 0:
            raise InputError(f"checkpoint_every: {self.checkpoint_every} must be at least 0")
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise UnknownName.of("tracker", tracker, TRACKERS)
        for name, section in self.trainings.items():
            if section.selection == "best" and not (
                self.data.validation or self.data.published or ".py:" in self.data.path
            ):
                raise InputError(
                    f"{name}.selection: 'best' needs something to choose by: data.validation above 0, or "
                    "data.selection = 'published'"
                )
        if self.prune is not None:
            with _at("prune"):
                checked(self.prune)
        if self.sparsity is not None:
            with _at("sparsity"):
                configured(self.sparsity.method, self.sparsity.options)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds, one chain each."""
        return self.seeds or (self.seed,)

    @property
    def trainings(self) -> dict[str, Fit]:
        """The sections that train, by name."""
        given = {"train": self.train, "sparsity": self.sparsity, "finetune": self.finetune}
        return {name: section for name, section in given.items() if section is not None}

    @property
    def selection(self) -> str:
        """What chose the weights that are left behind."""
        if self.data.published:
            return PUBLISHED
        return "validation" if any(s.selection == "best" for s in self.trainings.values()) else "last epoch"


def only_fit(section: Fit) -> Fit:
    """The section as a plain `Fit`, without what the stage adds."""
    return Fit(**{part.name: getattr(section, part.name) for part in fields(Fit)})


def read(path: str | Path) -> dict[str, Any]:
    """The content of a recipe's file, with what it extends. Raises InputError where it is missing or no TOML."""
    return whole(Path(path), _own)


def _own(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # editors of Windows write a mark at the begin
    except OSError as error:
        raise InputError(f"the recipe {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error


def load(
    given: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), *, smoke: bool = False
) -> Recipe:
    """The recipe of a file, a table or an object, in its smoke variant if asked for, with `--set` overrides applied.

    The smoke variant is checked in any case, so that it cannot rot. Raises InputError with the path of what is wrong.
    """
    from prunus.lab.schema import conform

    raw: Mapping[str, Any]
    if isinstance(given, Recipe):
        raw = plain(given)
    elif isinstance(given, Mapping):
        raw = given
    elif isinstance(given, str | Path):
        raw = read(given)
    else:
        raise InputError(f"a recipe is a file, a table or a Recipe, not {type(given).__name__}")
    for text in overrides:
        raw = override(raw, text)
    if KEY in raw:
        raise InputError(f"{KEY}: only a recipe's file can extend another, which lies beside it")
    full = conform(Recipe, raw)
    with _at("smoke"):
        small = conform(Recipe, variant(raw))
    return small if smoke else full


def variant(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its [smoke] settings in place. Keys there are nested tables or dotted names."""
    rest = {key: value for key, value in raw.items() if key != "smoke"}
    changes = raw.get("smoke", {})
    if not isinstance(changes, Mapping):
        raise InputError("a table of settings is needed")
    for key, value in changes.items():
        rest = _merged(rest, key.split("."), value)
    return {**rest, "name": f"{rest['name']}-smoke"} if changes and isinstance(rest.get("name"), str) else rest


def override(raw: Mapping[str, Any], text: str) -> dict[str, Any]:
    """`train.epochs=10` applied. The value is TOML, or a bare word; an empty one takes the setting away."""
    name, sign, value = text.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not sign or not all(path):
        raise InputError(f"--set {text!r} is no NAME=VALUE, such as train.epochs=10")
    value = value.strip()
    return _merged(raw, path, value_of(f"--set {text!r}", value) if value else _ABSENT)


def changed(raw: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The table with `value`, plain data, at a dotted name. Tables are merged; anything else is replaced."""
    return _merged(raw, name.split("."), value)


def plain(section: Any) -> dict[str, Any]:
    """The settings as a table: what `load` takes; without those that have no value."""

    def bare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: bare(inner) for key, inner in value.items() if inner is not None}
        return [bare(inner) for inner in value] if isinstance(value, tuple | list) else value

    if isinstance(section, Recipe):
        if section.prune is not None:
            target = section.prune.target
            section = replace(section, prune=replace(section.prune, target=target and str(target)))
        found = bare(asdict(section))
        found["runtime"].pop("seed")
        found.get("prune", {}).pop("seed", None)
        found.pop("seed" if section.seeds else "seeds")
        return dict(found)
    return dict(bare(asdict(section)))


def value_of(what: str, text: str) -> Any:
    """A TOML value, or a bare word as text. `what` is named where it is neither."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[+-]?(\.\d+|\d+\.)([eE][+-]?\d+)?", text):  # .01, as options of the command line have it
            return float(text)
        if text[0] in "[{\"'":
            raise InputError(f"{what}: the value is no TOML: {error}") from error
        return text
    return found["value"] if list(found) == ["value"] else text


_ABSENT = object()


def _merged(table: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The table with a value at a path. Tables are merged; anything else is replaced."""
    name, rest = path[0], path[1:]
    inner = table.get(name)
    if rest:
        return {**table, name: _merged(inner if isinstance(inner, Mapping) else {}, rest, value)}
    if value is _ABSENT:
        return {key: kept for key, kept in table.items() if key != name}
    if isinstance(value, Mapping) and isinstance(inner, Mapping):
        merged = dict(inner)
        for key, deeper in value.items():
            merged = _merged(merged, [key] if name in _OF_NAMES else key.split("."), deeper)
        return {**table, name: merged}
    return {**table, name: value}


@contextmanager
def _at(path: str) -> Iterator[None]:
    """Say where an input error arose."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
