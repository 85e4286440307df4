"""From the name of a model to the model, with random weights. Nothing is ever downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from torch import nn

from prunus.errors import InputError, MissingExtra, UnknownName, nearest
from prunus.models.densenet import densenet40
from prunus.models.inception import googlenet
from prunus.models.mobilenet import mobilenetv1
from prunus.models.resnet import resnet20, resnet32, resnet44, resnet56, resnet110
from prunus.models.userfile import file_maker, from_file, is_file_name
from prunus.models.vgg import vgg16, vgg16_hrank

__all__ = ["build", "check_source", "maker", "names", "resolve"]

BUNDLED: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "resnet20": resnet20,
        "resnet32": resnet32,
        "resnet44": resnet44,
        "resnet56": resnet56,
        "resnet110": resnet110,
        "vgg16": vgg16,
        "vgg16-hrank": vgg16_hrank,
        "googlenet": googlenet,
        "densenet40": densenet40,
        "mobilenetv1": mobilenetv1,
    }
)


EXPORTED = MappingProxyType({".onnx": "an ONNX file", ".pt2": "an exported program", ".xml": "an OpenVINO file"})
"""Suffixes of networks that have no layers any more."""


def names() -> tuple[str, ...]:
    """The bundled nets."""
    return tuple(BUNDLED)


def build(name: str, classes: int | None = None) -> nn.Module:
    """A bundled net with the paper's widths; `classes` outputs, or as many as in the paper. Raises UnknownName."""
    _check_classes(classes)
    if name not in BUNDLED:
        raise UnknownName.of("bundled model", name, BUNDLED)
    return BUNDLED[name]() if classes is None else BUNDLED[name](classes=classes)


def resolve(name: str, classes: int | None = None) -> nn.Module:
    """The model of that name, with random weights.

    name: a bundled net ("resnet56"), "torchvision/NAME" or just NAME where nothing bundled is called that, "timm/NAME",
        or "path/file.py:factory", where the factory returns the model.
    classes: outputs of the classifier; None for the model's own default.

    Raises UnknownName with the nearest name there is, MissingExtra without timm, and InputError where the model takes
    no number of classes, or the file or its factory cannot be used.
    """
    _check_classes(classes)
    check_source(name)
    if is_file_name(name):
        return from_file(name, classes)
    if name in BUNDLED:
        return build(name, classes)
    source, slash, rest = name.partition("/")
    if slash and source == "torchvision":
        return _from_torchvision(rest, name, classes)
    if slash and source == "timm":
        return _from_timm(rest, name, classes)
    if not slash and name in _torchvision_names():
        return _from_torchvision(name, name, classes)
    candidates = [*BUNDLED, *_torchvision_names()] if not slash else [f"torchvision/{n}" for n in _torchvision_names()]
    raise _unknown(name, nearest(name, candidates))


def check_source(name: str) -> None:
    """Raises InputError for the name of an exported network: what was cut out of its code can only be cut there."""
    if kind := EXPORTED.get(PurePath(name).suffix):
        raise InputError(
            f"{name!r} is {kind}, a list of fixed operations in which no layer can be cut exactly; prune the PyTorch "
            "network that it was made from (prunus prune path/file.py:factory --weights FILE --target macs=50% --out "
            f"small), then write it anew: prunus export --from small --out {PurePath(name).name}"
        )


def maker(name: str, classes: int | None = None) -> Callable[..., nn.Module]:
    """What `resolve` calls for this name: a function, with its arguments in a functools.partial.

    Raises what `resolve` raises for the name.
    """
    options: dict[str, Any]
    if is_file_name(name):
        return file_maker(name, classes)
    source, slash, rest = name.partition("/")
    if name in BUNDLED:
        return partial(BUNDLED[name], **({} if classes is None else {"classes": classes}))
    resolve(name, classes)
    if source == "timm":
        from timm import create_model

        options = {} if classes is None else {"num_classes": classes}
        return partial(create_model, rest, pretrained=False, **options)
    from torchvision.models import get_model_builder

    known = rest if slash else name
    found: Callable[..., nn.Module] = get_model_builder(known)
    return partial(found, **_torchvision_options(known, classes))


def _unknown(name: str, close: str | None) -> UnknownName:
    hint = f"; did you mean {close!r}?" if close else ""
    allowed = f"{', '.join(BUNDLED)}, torchvision/NAME, timm/NAME or path/file.py:factory"
    return UnknownName(f"unknown model {name!r}{hint} (allowed: {allowed})")


def _check_classes(classes: int | None) -> None:
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 1):
        raise InputError(f"classes is {classes!r}; it must be a whole number of at least 1")


def _torchvision_names() -> list[str]:
    from torchvision.models import list_models

    return list(list_models())


def _from_torchvision(name: str, asked: str, classes: int | None) -> nn.Module:
    from torchvision.models import get_model

    known = _torchvision_names()
    if name not in known:
        close = nearest(name, known)
        raise _unknown(asked, f"torchvision/{close}" if close else None)
    try:
        model: nn.Module = get_model(name, **_torchvision_options(name, classes))
    except TypeError as error:
        if "num_classes" in str(error):
            raise InputError(f"{asked} has no classifier: leave out classes={classes}") from error
        raise
    return model


def _torchvision_options(name: str, classes: int | None) -> dict[str, Any]:
    """What a builder of torchvision is called with, so that nothing is fetched."""
    from torchvision.models import get_model_builder

    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # detection and segmentation nets would fetch it
    if name.removeprefix("quantized_") in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # their default, which they warn about when it is not given
    if classes is not None:
        options["num_classes"] = classes
    return options


def _from_timm(name: str, asked: str, classes: int | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra.of("timm", "timm") from error
    if not timm.is_model(name):
        close = nearest(name, timm.list_models())
        raise _unknown(asked, f"timm/{close}" if close else None)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model
