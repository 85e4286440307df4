"""Names of models, and one clear line for each that means nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.errors import InputError, MissingExtra, ModelError, UnknownName
from prunus.models import VGG, GoogLeNet, build, names, resolve

FACTORY = """
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

import beside


@dataclass
class Size:
    width: int = 4


def net(num_classes: int = 3) -> nn.Module:
    return nn.Linear(Size().width, num_classes)


class Net(nn.Linear):
    def __init__(self) -> None:
        super().__init__(beside.WIDTH, 2)


def needs(width):
    return nn.Linear(width, 2)


def text():
    return "net"


def breaks():
    raise RuntimeError("no\\nluck")


instance = nn.Linear(1, 1)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sys.modules.pop("beside", None)
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    path = tmp_path / "own.py"
    path.write_text(FACTORY)
    yield path
    sys.modules.pop("beside", None)


def test_names_are_the_papers_nets() -> None:
    assert names() == (
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "vgg16",
        "vgg16-hrank",
        "googlenet",
        "densenet40",
        "mobilenetv1",
    )


@pytest.mark.parametrize("name", names())
def test_classes_set_the_outputs_of_every_bundled_net(name: str) -> None:
    with torch.device("meta"):
        last = [m for m in resolve(name, 3).modules() if isinstance(m, nn.Linear)][-1]
        default = [m for m in build(name).modules() if isinstance(m, nn.Linear)][-1]
    assert last.out_features == 3
    assert default.out_features == (1000 if name == "mobilenetv1" else 10)


def test_bundled_nets_come_before_torchvisions_of_the_same_name() -> None:
    with torch.device("meta"):
        assert type(resolve("vgg16")) is VGG
        assert type(resolve("googlenet")) is GoogLeNet
        assert type(resolve("torchvision/vgg16")).__module__ == "torchvision.models.vgg"


def test_torchvision_by_prefix_and_bare() -> None:
    with torch.device("meta"):
        assert resolve("torchvision/resnet18").fc.out_features == 1000
        assert resolve("resnet18", classes=5).fc.out_features == 5
        assert resolve("fcn_resnet50", classes=4).classifier[-1].out_channels == 4


def test_torchvision_nets_with_auxiliary_heads_keep_them_and_do_not_warn() -> None:
    with torch.device("meta"):
        assert resolve("torchvision/googlenet", 5).aux1.fc2.out_features == 5
        assert resolve("inception_v3", 5).AuxLogits.fc.out_features == 5


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="needs timm")
    with torch.device("meta"):
        assert resolve("timm/regnetx_004", 6).head.fc.out_features == 6
    with pytest.raises(UnknownName, match="did you mean 'timm/regnetx_004'"):
        resolve("timm/regnetx_0044")


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r'^timm is not installed; run: pip install "prunus\[timm\]"$'):
        resolve("timm/resnet18")


def test_a_factory_in_a_file(file: Path) -> None:
    assert resolve(f"{file}:net").out_features == 3
    assert resolve(f"{file}:net", classes=9).out_features == 9
    assert resolve(f"{file}:Net").in_features == 5
    assert str(file.parent) not in sys.path


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("resnet65", UnknownName, "unknown model 'resnet65'; did you mean 'resnet56'? (allowed: resnet20, "),
        ("torchvision/resnet51", UnknownName, "did you mean 'torchvision/resnet"),
        ("torchvison/resnet50", UnknownName, "did you mean 'torchvision/resnet50'"),
        ("hub/zzz", UnknownName, "unknown model 'hub/zzz' (allowed: "),
        ("", UnknownName, "unknown model ''"),
        ("nowhere/own.py:net", InputError, "there is no file nowhere/own.py"),
        ("own.py", InputError, "'own.py' names no factory; write path/file.py:factory"),
        ("own.py:", InputError, "names no factory"),
    ],
)
def test_wrong_names(name: str, kind: type[InputError], says: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(name)
    assert type(error.value) is kind
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("factory", "classes", "kind", "says"),
    [
        ("nett", None, UnknownName, "; did you mean 'net'? (allowed: Net, Size, breaks, needs, net, text)"),
        ("number", None, ModelError, "is a int; it must be a function (or class) that returns the model"),
        ("instance", None, ModelError, "is a Linear; it must be a function"),
        ("text", None, ModelError, "returned str; it must return a torch.nn.Module"),
        (
            "needs",
            None,
            ModelError,
            "cannot be called without further arguments: TypeError: missing a required argument",
        ),
        ("breaks", None, ModelError, "failed: RuntimeError: no"),
        ("Net", 4, InputError, "takes neither classes nor num_classes: leave out classes=4"),
    ],
)
def test_wrong_factories(file: Path, factory: str, classes: int | None, kind: type[InputError], says: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(f"{file}:{factory}", classes)
    assert type(error.value) is kind
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package_here\n")
    with pytest.raises(ModelError, match="the file cannot be imported: ModuleNotFoundError: No module named"):
        resolve(f"{path}:net")
    path.write_text("def net(:\n")
    with pytest.raises(ModelError, match="SyntaxError") as error:
        resolve(f"{path}:net")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [0, -1, True, 2.0])
def test_classes_must_be_a_count(classes: int) -> None:
    with pytest.raises(InputError, match=r"classes is .*; it must be a whole number of at least 1"):
        resolve("resnet20", classes)


def test_a_model_without_a_classifier_takes_no_classes() -> None:
    with pytest.raises(InputError, match="raft_small has no classifier: leave out classes=3"):
        resolve("raft_small", 3)


def test_build_knows_only_bundled_nets() -> None:
    with pytest.raises(UnknownName, match="unknown bundled model 'resnet18'"):
        build("resnet18")
