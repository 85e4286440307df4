"""Masks in a training: momentum, Adam, clipping, loss scaling, accumulation, compilation, two processes, resuming,
rewinding."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.launch import ENVIRONMENT
from torch import nn

import prunus
from prunus.engine.config import Fit
from prunus.engine.data import Data, Split
from prunus.engine.loop import Checkpoints, fit
from prunus.engine.runtime import Runtime
from prunus.errors import CheckpointError, InputError
from prunus.methods import Held, Weights

EXAMPLE = torch.zeros(1, 1, 8, 8)
CPU = Runtime(device="cpu")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),  # 72 weights
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),  # 128 weights
    )


def data() -> Data:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=g)
    split = Split(images, torch.randint(0, 4, (48,), generator=g))
    return Data(split, split, 4, (0.5,), (0.25,), "noise")


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 8, 8, generator=g), torch.randint(0, 4, (8,), generator=g)


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_parameter(name).detach() == 0 for name in ("0.weight", "5.weight")}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.01, amsgrad=True)


@pytest.mark.parametrize("make", [sgd, adam])
def test_momentum_revives_no_weight(make: Any) -> None:
    """The masks come in the middle of a training, when every weight has momentum."""
    model = net()
    optimizer = make(model)
    for step in range(3):
        torch.nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = Held(model, {"5.weight": torch.rand(4, 32, generator=torch.Generator().manual_seed(0)) < 0.5})
    gone = ~held.masks["5.weight"]
    weight = model[5].weight
    assert all(value[gone].any() for value in optimizer.state[weight].values() if value.shape == weight.shape)
    held.hold(optimizer)
    for step in range(5):
        torch.nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        assert not weight.grad[gone].any() and weight.grad[~gone].all()
        optimizer.step()
        assert not weight[gone].any(), "state and gradient alone hold the zeros of these optimizers"
        held.after_step()
        moments = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
        assert len(moments) == (1 if make is sgd else 3)
        assert all(not value[gone].any() and value[~gone].all() for value in moments)
        optimizer.zero_grad()
    held.release()
    torch.nn.functional.cross_entropy(model(batch(9)[0]), batch(9)[1]).backward()
    assert weight.grad[gone].any(), "released"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex128])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_masked_is_zero_whatever_it_was(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Infinite, no number or negative; the rest stays as it is: in a weight, a gradient, a state of another dtype."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, bias=False)
    conv.weight = nn.Parameter(conv.weight.detach().to(dtype, memory_format=layout))
    stays = torch.rand(conv.weight.shape) < 0.5
    with torch.no_grad():
        conv.weight[0, 0] = torch.tensor([float("inf"), float("nan"), -1.0])
    was = conv.weight.detach().clone()
    held = Held(conv, {"weight": stays})
    assert torch.equal(conv.weight[stays].nan_to_num(), was[stays].nan_to_num())
    assert not conv.weight[~stays].any() and torch.equal(held.masks["weight"], stays)
    assert conv.weight.is_contiguous(memory_format=layout)

    sgd = torch.optim.SGD(conv.parameters(), lr=1.0, momentum=0.9)
    sgd.state[conv.weight]["momentum_buffer"] = torch.ones_like(conv.weight)
    sgd.state[conv.weight]["short"] = torch.full(stays.shape, -torch.inf, dtype=torch.float16)
    held.hold(sgd)
    for value in sgd.state[conv.weight].values():
        assert not value[~stays].any() and bool(value[stays].abs().ge(1).all())
    (conv.weight * torch.full_like(conv.weight, -2)).sum().abs().backward()
    assert conv.weight.grad is not None and not conv.weight.grad[~stays].any()


def test_after_step_alone_holds_the_function() -> None:
    model = prunus.prune(net(), EXAMPLE, "weights=25%", "weights").model
    gone, held, optimizer = zeros(model), Held.of(model), sgd(model)
    for step in range(4):
        torch.nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        optimizer.step()
        assert any((model.get_parameter(n)[m] != 0).any() for n, m in gone.items()), "or this shows nothing"
        held.after_step()
        assert all(torch.equal(a, b) for a, b in zip(zeros(model).values(), gone.values(), strict=True))


def test_a_clipped_norm_counts_no_masked_gradient() -> None:
    model = prunus.prune(net(), EXAMPLE, "weights=25%", "weights").model
    held = Held.of(model)
    held.hold(sgd(model))
    torch.nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    plain = copy.deepcopy(model)
    plain.zero_grad()
    torch.nn.functional.cross_entropy(plain(batch(0)[0]), batch(0)[1]).backward()
    masks = held.masks
    square = sum(
        float((p.grad * masks.get(n, torch.tensor(1))).double().square().sum()) for n, p in plain.named_parameters()
    )
    whole = sum(float(p.grad.double().square().sum()) for p in plain.parameters())
    assert float(norm) == pytest.approx(square**0.5, rel=1e-5)
    assert square < 0.9 * whole


@pytest.mark.parametrize(
    ("config", "runtime"),
    [
        (Fit(3, 16, 0.1, nesterov=True, clip=1.0, accumulate=2), CPU),
        (Fit(3, 16, 0.01, "adamw"), Runtime(device="cpu", precision="bf16", channels_last=True)),
        (Fit(3, 16, 0.05, ema=0.9), Runtime(device="cpu", precision="fp16")),
    ],
)
def test_rounds_in_the_engine(config: Fit, runtime: Runtime) -> None:
    model, seen = net(), []
    attached = Weights(rounds=3, schedule="linear").attach(model, EXAMPLE, "weights=40%", epochs=3)

    class Look:
        def after_step(self) -> None:
            seen.append(sum(int(z.sum()) for z in zeros(model).values()))

    fit(model, data(), config, hooks=[attached, Look()], runtime=runtime, progress=False)
    assert seen == [40] * 3 + [80] * 3 + [120] * 3  # of 200 weights, 60 % in three rounds
    thin = attached.finish()
    assert sum(layer.nonzero for layer in thin.layers()) == 80
    assert attached.eligible()
    assert not model[5].weight._backward_hooks


def test_masks_are_nested_and_the_last_epochs_alone_are_eligible() -> None:
    model = net()
    attached = Weights(rounds=2).attach(model, EXAMPLE, "weights=50%", epochs=4)
    assert attached.starts == (0, 2)
    optimizer, masks, eligible = sgd(model), [], []
    attached.hold(optimizer)
    for e in range(4):
        attached.epoch_start(e)
        masks.append(zeros(model))
        (torch.nn.functional.cross_entropy(model(batch(e)[0]), batch(e)[1]) + attached.penalty()).backward()
        optimizer.step()
        attached.after_step()
        eligible.append(attached.eligible())
    assert [sum(int(m.sum()) for m in each.values()) for each in masks] == [87, 87, 100, 100]  # 100 · 7/8, rounded down
    assert all((masks[2][name] | ~masks[1][name]).all() for name in masks[0])
    assert eligible == [False, False, True, True]


def test_stopped_anywhere_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Stop:
        def __init__(self, at: int) -> None:
            self.at, self.steps = at, 0

        def after_step(self) -> None:
            self.steps += 1
            if self.steps == self.at:
                raise Stopped

    method = Weights(rounds=2, start=1, rewind=2)

    def run(stop: int, folder: Path | None) -> tuple[nn.Module, Any]:
        model = net()
        attached = method.attach(model, EXAMPLE, "weights=30%", epochs=4)
        kept = None if folder is None else Checkpoints(folder, every=2)
        config = Fit(4, 16, 0.1, clip=1.0, ema=0.5)
        fit(model, data(), config, hooks=[attached, Stop(stop)], runtime=CPU, checkpoints=kept, progress=False)
        return model, attached

    straight, one = run(0, None)
    for stop in (2, 4, 3, 2):
        with pytest.raises(Stopped):
            run(stop, tmp_path)
    resumed, two = run(0, tmp_path)
    assert all(torch.equal(t, resumed.state_dict()[name]) for name, t in straight.state_dict().items())
    assert all(torch.equal(mask, two.held.masks[name]) for name, mask in one.held.masks.items())
    a, b = one.finish(), two.finish()
    assert all(torch.equal(t, b.model.state_dict()[name]) for name, t in a.model.state_dict().items())
    assert sum(layer.nonzero for layer in a.layers()) == 60


def test_rewinding_restores_early_weights_under_the_mask() -> None:
    model = net()
    attached = Weights(start=1, rewind=2).attach(model, EXAMPLE, "weights=50%", epochs=2)
    optimizer = sgd(model)
    attached.hold(optimizer)
    attached.epoch_start(0)
    early: dict[str, torch.Tensor] = {}
    for step in range(4):
        torch.nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        attached.after_step()
        if step == 1:
            early = copy.deepcopy(model.state_dict())
    trained = copy.deepcopy(model.state_dict())
    attached.epoch_start(1)
    both = torch.cat([trained["0.weight"].reshape(-1), trained["5.weight"].reshape(-1)]).abs()
    stays = torch.zeros(200, dtype=torch.bool)
    stays[both.argsort(descending=True)[:100]] = True  # ranked by what was trained, not by what is put back
    now = torch.cat([model[0].weight.detach().reshape(-1), model[5].weight.detach().reshape(-1)])
    was = torch.cat([early["0.weight"].reshape(-1), early["5.weight"].reshape(-1)])
    assert torch.equal(now, torch.where(stays, was, torch.zeros(200)))
    others = [name for name in early if name not in ("0.weight", "5.weight")]
    assert all(torch.equal(model.state_dict()[name], early[name]) for name in others)
    assert not torch.equal(trained["1.running_mean"], early["1.running_mean"])
    assert not optimizer.state, "momentum starts anew"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="rounds=3 need as many epochs, and start=1 leaves 2 of 3"):
        Weights(rounds=3, start=1).attach(net(), EXAMPLE, "weights=30%", epochs=3)
    with pytest.raises(InputError, match="rounds=2 are spread over the epochs; give epochs="):
        Weights(rounds=2).attach(net(), EXAMPLE, "weights=30%")
    with pytest.raises(InputError, match="rewind needs epochs of training before the first mask; give start="):
        Weights(rewind=5).attach(net(), EXAMPLE, "weights=30%", epochs=3)
    late = Weights(rewind=5, start=1).attach(net(), EXAMPLE, "weights=30%", epochs=3)
    with pytest.raises(InputError, match="rewind=5: only 0 steps were made before the first mask"):
        late.epoch_start(1)
    with pytest.raises(CheckpointError, match="a state of Slimming is none of Weights"):
        late.load_state_dict({"method": "Slimming"})
    held = Held.of(prunus.prune(net(), EXAMPLE, "weights=30%", "weights").model)
    with pytest.raises(CheckpointError, match="masks of other weights"):
        held.load_state_dict({"masks": {"0.weight": torch.ones(3, dtype=torch.bool)}})
    with pytest.raises(InputError, match=r"a mask of shape \(3,\) for 0.weight does not fit"):
        Held(net(), {"0.weight": torch.ones(3, dtype=torch.bool)})


def test_a_pattern_in_training_and_another_target_at_the_end() -> None:
    model = net()
    attached = Weights(pattern="2:4").attach(model, EXAMPLE, epochs=1)
    attached.epoch_start(0)
    assert int((model[5].weight != 0).sum()) == 64
    assert "0.weight (1 inputs)" in attached.finish().notes[0]
    other = Weights().attach(net(), EXAMPLE, "weights=50%", epochs=1)
    other.epoch_start(0)
    assert sum(layer.nonzero for layer in other.finish("weights=20%").layers()) == 40


SCRIPT = """
import json, sys
import torch
from methods.test_held import EXAMPLE, batch, net, zeros
from prunus.engine.processes import leave
from prunus.methods import Weights
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model = net()
wrapped = torch.nn.parallel.DistributedDataParallel(model)
attached = Weights(rounds=2).attach(wrapped, EXAMPLE, "weights=30%", epochs=2)
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
attached.hold(optimizer)
for e in range(2):
    attached.epoch_start(e)
    for step in range(3):
        x, y = batch(10 * rank + step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
        attached.after_step()
found = torch.cat([z.reshape(-1) for z in zeros(model).values()]).to(torch.uint8)
both = [torch.zeros_like(found) for _ in range(2)]
torch.distributed.all_gather(both, found)
if rank == 0:
    print(json.dumps([int(found.sum()), bool(torch.equal(*both))]))
leave()
"""


def test_two_processes_have_the_same_masks(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [140, True]


def test_a_compiled_network_sees_the_masks() -> None:
    model = net()
    net_ = torch.compile(model, backend="eager")
    attached = Weights().attach(net_, EXAMPLE, "weights=30%", epochs=1)
    optimizer = sgd(model)
    attached.hold(optimizer)
    net_(batch(0)[0])
    attached.epoch_start(0)
    for step in range(2):
        torch.nn.functional.cross_entropy(net_(batch(step)[0]), batch(step)[1]).backward()
        optimizer.step()
        attached.after_step()
    model.eval()
    assert sum(int(z.sum()) for z in zeros(model).values()) == 140
    torch.testing.assert_close(net_(batch(5)[0]), model(batch(5)[0]))
