"""One file, and back from the constructor: the same network to the last bit, or one clear refusal."""

from __future__ import annotations

import copy
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import BLOCKS, Network
from safetensors.torch import load_file, save_file
from saved import EXAMPLE, Net, seeded, small
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import prunus
from prunus.engine.config import Fit
from prunus.errors import CheckpointError, InputError, ModelError, PlanError
from prunus.files.file import content_of
from prunus.methods import Held
from prunus.models import build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


def same(one: nn.Module, other: nn.Module, example: Tensor = EXAMPLE) -> None:
    """Names, shapes, dtypes, every bit, what modules print, and the outputs in both modes."""
    left, right = one.state_dict(), other.state_dict()
    assert list(left) == list(right) and str(one) == str(other)
    for name, value in left.items():
        assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name
    for mode in (True, False):
        outs = []
        for model in (one, other):
            torch.manual_seed(1)
            outs.append(copy.deepcopy(model).train(mode)(example.to(next(model.parameters()).dtype)))
        assert torch.equal(*outs)


def trip(
    made: prunus.Pruned | prunus.Loaded, path: Path, fresh: nn.Module, example: Tensor = EXAMPLE, **options: Any
) -> prunus.Loaded:
    """Save, load into `fresh`, which stays as it was, and compare."""
    before = copy.deepcopy(fresh.state_dict())
    prunus.save(made, path, **options)
    loaded = prunus.load(path, fresh)
    same(made.model, loaded.model, example)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    return loaded


# round trips ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "side"), [("resnet20", 8), ("vgg16", 32)])
def test_a_bundled_net_comes_back(name: str, side: int, path: Path) -> None:
    example = torch.randn(2, 3, side, side)
    cut = prunus.prune(build(name), example, "macs=40%", "random", check=False)
    loaded = trip(cut, path, build(name), example)
    assert loaded.plan.to_json() == cut.plan.to_json() and loaded.masks == {}
    assert str(loaded).splitlines()[0].split() == str(cut).splitlines()[0].split()


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_block_comes_back(kind: str, path: Path) -> None:
    spec = [(kind, 1, 2), (kind, 2, 1)]
    trip(prunus.prune(Network(spec), EXAMPLE, "channels=60%", "random", check=False), path, Network(spec, seed=5))


def test_a_trained_network_comes_back_as_it_is_now(path: Path) -> None:
    cut = small()
    optimizer = torch.optim.SGD(cut.model.parameters(), 0.1)
    for _ in range(2):
        cut.model.train()(EXAMPLE).square().sum().backward()
        optimizer.step()
    trip(cut, path, Net())


@pytest.mark.parametrize("attention", ["heads", "width"])
def test_attention_keeps_its_folded_scale(attention: str, path: Path) -> None:
    spec = [("attention", 1, 0)]
    cut = prunus.prune(Network(spec), EXAMPLE, "channels=50%", attention=attention, check=False)
    assert any(cut.plan.folds) or attention == "heads"
    trip(cut, path, Network(spec, seed=3))


def test_a_dropped_block_stays_dropped(path: Path) -> None:
    loaded = trip(small(drop=["block"]), path, Net())
    assert [d.name for d in loaded.plan.dropped] == ["block"] and "dropped: block" in str(loaded)
    assert not [name for name in load_file(path) if name.startswith("block.")]
    assert not [name for name, _, _ in loaded.rows() if name.startswith("block.")]


def test_tied_weights_stay_tied_and_are_stored_under_each_name(path: Path) -> None:
    cut = small()
    loaded = trip(cut, path, Net())
    assert loaded.model.b.weight is loaded.model.c.weight  # type: ignore[union-attr]
    stored = load_file(path)
    assert stored.keys() == cut.model.state_dict().keys()
    again = prunus.apply(Net(), cut.plan)
    again.load_state_dict(stored)  # any reader of safetensors has the whole state dict
    same(again, cut.model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_file_says_the_dtypes(dtype: torch.dtype, path: Path) -> None:
    cut = small()
    cut.model.to(dtype)
    loaded = trip(cut, path, Net())
    kinds = {value.dtype for value in loaded.model.state_dict().values()}
    assert kinds == {dtype, torch.int64, torch.bool}
    assert loaded.model.b.weight is loaded.model.c.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_buffers_that_no_state_dict_has_follow_the_saved_network(dtype: torch.dtype, path: Path) -> None:
    cut = small()
    prunus.save(cut, path)
    fresh = Net().to(dtype)
    assert prunus.load(path, fresh).model.scale.dtype == torch.float32 and fresh.scale.dtype == dtype
    cut.model.to(dtype)
    loaded = trip(cut, path, Net()).model
    assert loaded.scale.dtype == dtype and loaded(EXAMPLE.to(dtype)).dtype == dtype


def test_a_hook_that_renames_the_state(path: Path) -> None:
    class Renamed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
            self.register_state_dict_post_hook(renamed)

        def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict({name.removeprefix("net."): t for name, t in state.items()}, strict, assign)

    def renamed(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
        for name in [name for name in state if not name.startswith("net.")]:
            state[f"net.{name}"] = state.pop(name)

    cut = prunus.prune(Renamed(), EXAMPLE, "channels=50%", check=False)
    cut.model.bfloat16()
    assert "net.0.weight" in trip(cut, path, Renamed()).model.state_dict()


def test_mixed_dtypes_and_what_is_not_finite(path: Path) -> None:
    cut = small()
    cut.model.half()
    cut.model.norm.float()  # type: ignore[operator, union-attr]
    with torch.no_grad():
        cut.model.get_parameter("head.bias")[0] = float("nan")
        cut.model.get_parameter("head.bias")[1] = float("-inf")
    prunus.save(cut, path)
    loaded = prunus.load(path, Net().double()).model
    assert loaded.get_parameter("norm.weight").dtype == torch.float32
    bias = loaded.get_parameter("head.bias")
    assert bias.dtype == torch.float16 and bias[0].isnan() and bias[1] == float("-inf")


def test_parametrised_weights_come_back(path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 3))

    trip(prunus.prune(make(), EXAMPLE, "channels=50%", check=False), path, make())


def test_a_fresh_process_has_only_the_constructor(path: Path, tmp_path: Path) -> None:
    cut = prunus.prune(build("resnet20", 4), EXAMPLE, "macs=50%", "random", drop=["layer1.1"], check=False)
    prunus.save(cut, path)
    save_file({"x": EXAMPLE, "y": cut.model.eval()(EXAMPLE).detach()}, tmp_path / "answer.safetensors")
    code = (
        "import sys, torch, prunus; from safetensors.torch import load_file; from prunus.models import build\n"
        "small = prunus.load(sys.argv[1], build('resnet20', 4)); told = load_file(sys.argv[2])\n"
        "print(torch.equal(small.model.eval()(told['x']), told['y']))"
    )
    words = [sys.executable, "-c", code, str(path), str(tmp_path / "answer.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


# pruned twice ---------------------------------------------------------------------------------------------------------
def test_pruned_twice_and_thrice_loads_from_the_dense_constructor(path: Path) -> None:
    one = small(target="macs=70%", method="random")
    two = prunus.prune(one.model, EXAMPLE, "macs=70%", "random", seed=1, check=False)
    loaded = trip(two, path, Net(), base=one)
    three = prunus.prune(loaded.model, EXAMPLE, "macs=80%", "random", seed=2, check=False)
    again = trip(three, path, Net(), base=loaded)
    trip(again, path, Net())
    assert again.plan.widths == one.plan.then(two.plan).then(three.plan).widths
    with pytest.raises(PlanError, match=r"where it had been cut before it was pruned, save it with base="):
        prunus.save(two, path)
        prunus.load(path, Net())
    with pytest.raises(PlanError, match="the second plan was not made for the network that the first one cuts: "):
        prunus.save(three, path, base=one)


def test_channels_that_were_pinned_the_first_time(path: Path) -> None:
    one = small(pin=["a"], target="channels=80%")
    two = prunus.prune(one.model, EXAMPLE, drop=["block"], target="channels=60%", check=False)
    trip(two, path, Net(), base=one)


def test_zeros_after_a_cut(path: Path) -> None:
    one = small()
    two = prunus.prune(one.model, EXAMPLE, "weights=40%", "weights")
    loaded = trip(two, path, Net(), base=one)
    assert loaded.masks.keys() == two.masks.keys()  # type: ignore[attr-defined]


# zeros ----------------------------------------------------------------------------------------------------------------
def test_masks_come_back_to_the_entry(path: Path) -> None:
    thin = prunus.prune(seeded(), EXAMPLE, "weights=40%", "weights")
    name = "head.weight"
    kept = thin.masks[name].nonzero()[0].tolist()  # type: ignore[attr-defined]
    with torch.no_grad():
        thin.model.get_parameter(name)[tuple(kept)] = 0.0  # it stayed, and happens to be 0
    loaded = trip(thin, path, Net())
    for key, mask in thin.masks.items():  # type: ignore[attr-defined]
        assert loaded.masks[key].dtype == torch.bool and torch.equal(loaded.masks[key], mask)
    assert "zeros in head.weight" in str(loaded)
    Held(loaded.model, dict(loaded.masks)).settle()
    same(thin.model, loaded.model)


def test_masks_that_fit_no_weight_are_refused(path: Path) -> None:
    thin = prunus.prune(seeded(), EXAMPLE, "weights=40%", "weights")
    from prunus.files.file import write

    for masks in ({"nothing": "AA=="}, {"head.weight": "AA=="}, {"head.weight": "*"}, {"head.weight": 3}, [1]):
        write(path, thin.model.state_dict(), {"plan": thin.plan.to_json(), "masks": masks})
        with pytest.raises(CheckpointError, match="mask"):
            prunus.load(path, Net())


# what the fresh model brings ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inside", [False, True])
def test_a_constructor_on_the_meta_device(inside: bool, path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))

    cut = prunus.prune(seeded(make), EXAMPLE, "channels=50%", check=False)
    prunus.save(cut, path)
    with torch.device("meta"):
        fresh = make()
        loaded = prunus.load(path, fresh) if inside else None
    loaded = loaded or prunus.load(path, fresh)
    same(cut.model, loaded.model)
    assert all(p.requires_grad and not p.is_meta for p in loaded.model.parameters())
    assert all(p.is_meta for p in fresh.parameters())


def test_ties_and_what_no_file_holds_on_the_meta_device(path: Path) -> None:
    cut = small()
    prunus.save(cut, path)
    with torch.device("meta"):
        fresh = Net()
    with pytest.raises(ModelError, match="scale is on the meta device and in no file, since no state dict has it"):
        prunus.load(path, fresh)
    fresh.scale = torch.full((5,), 2.0)
    loaded = prunus.load(path, fresh).model
    same(cut.model, loaded)
    assert loaded.b.weight is loaded.c.weight  # type: ignore[union-attr]


def test_mode_format_and_gradients_are_those_of_the_fresh_model(path: Path) -> None:
    prunus.save(small(), path)
    fresh = Net().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fresh.a.requires_grad_(False)
    loaded = prunus.load(path, nn.DataParallel(fresh)).model
    assert isinstance(loaded, Net) and not loaded.training
    assert not loaded.a.weight.requires_grad and loaded.b.weight.requires_grad
    assert loaded.b.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_averaged_copy_is_saved_with_the_plan_of_the_cut(path: Path) -> None:
    cut = small()
    average = copy.deepcopy(cut.model)
    with torch.no_grad():
        average.get_parameter("head.bias").add_(1)
    for base in (cut, cut.plan):
        prunus.save(average, path, base=base)
        same(average, prunus.load(path, Net()).model)
    with pytest.raises(InputError, match="a module alone does not say how it was cut"):
        prunus.save(average, path)


# what is loaded is used like what was pruned --------------------------------------------------------------------------
def test_training_goes_on_with_the_zeros_held(path: Path) -> None:
    thin = prunus.prune(seeded(), EXAMPLE, "weights=40%", "weights")
    prunus.save(thin, path)
    loaded = prunus.load(path, Net())
    batch = (EXAMPLE, torch.tensor([0, 3]))
    prunus.finetune(loaded, [batch, batch], Fit(epochs=1, lr=0.1), progress=False)
    state = loaded.model.state_dict()
    assert not torch.equal(state["head.weight"], thin.model.state_dict()["head.weight"])
    assert all(int(state[name][~mask].count_nonzero()) == 0 for name, mask in loaded.masks.items())


def test_the_state_of_an_optimizer_follows_what_was_loaded(path: Path) -> None:
    dense = seeded()
    optimizer = torch.optim.SGD(dense.parameters(), 0.1, momentum=0.9)
    dense(EXAMPLE).sum().backward()
    optimizer.step()
    prunus.save(prunus.prune(dense, EXAMPLE, "macs=50%", check=False), path)
    loaded = prunus.load(path, Net())
    with pytest.raises(InputError, match="is gone; pass it"):
        prunus.transfer_(optimizer, loaded)
    prunus.transfer_(optimizer, loaded, dense)
    assert set(optimizer.param_groups[0]["params"]) == set(loaded.model.parameters())


def test_what_is_loaded_does_not_follow_the_file(path: Path) -> None:
    cut = small()
    prunus.save(cut, path)
    loaded = prunus.load(path, Net())
    with path.open("r+b") as file:
        file.seek(-200, 2)
        file.write(b"\xff" * 200)
    gc.collect()
    same(cut.model, loaded.model)


# the description ------------------------------------------------------------------------------------------------------
def test_the_content_of_a_file_is_plain(path: Path) -> None:
    cut = small()
    prunus.save(cut, path)
    content = content_of(path)
    assert content is not None and set(content) == {"plan"} and content["plan"] == cut.plan.to_json()
    assert json.loads(json.dumps(content)) == content
    save_file({"x": torch.ones(1)}, path)
    assert content_of(path) is None
