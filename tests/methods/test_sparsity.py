"""Bytes on the disk: what is written can be read back, and the numbers add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import prunus
from prunus.methods import Weights
from prunus.methods.sparsity import csr, sizes, two_of_four

EXAMPLE = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 4))


def dense(parts: dict[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    assert parts["starts"][0] == 0 and parts["starts"][-1] == len(parts["values"])
    rows = torch.arange(shape[0]).repeat_interleave(parts["starts"].diff())
    return torch.zeros(shape).index_put((rows, parts["columns"].long()), parts["values"])


def header(path: Path) -> int:
    """Bytes of a safetensors file that are not tensors: eight for a length, and as many as it says."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_csr_is_the_weight() -> None:
    weight = net()[2].weight.detach() * (torch.arange(64) % 5 == 0)
    parts = csr(weight)
    assert torch.equal(dense(parts, (128, 64)), weight)
    assert parts["columns"].dtype == torch.uint16
    conv = torch.randn(4, 3, 2, 2) * (torch.rand(4, 3, 2, 2) < 0.3)
    assert torch.equal(dense(csr(conv), (4, 12)).reshape(conv.shape), conv)


@pytest.mark.parametrize("axis", [0, 1])
def test_two_of_four_is_the_weight(axis: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 12, 3, 3)
    weight[torch.rand(weight.shape) < 0.2] = 0  # blocks with fewer than two
    from prunus.methods.patterns import largest

    weight = weight * largest(weight, 2, 4, axis)
    parts = two_of_four(weight, axis)
    assert parts["values"].numel() == weight.numel() // 2
    assert parts["places"].dtype == torch.uint8 and parts["places"].numel() == weight.numel() // 8
    bits = torch.stack([parts["places"] & 15, parts["places"] >> 4], 1).reshape(-1).long()
    again = torch.zeros(weight.numel() // 4, 4)
    again.scatter_(1, torch.stack([bits & 3, bits >> 2], 1), parts["values"])
    moved = weight.movedim(axis, -1)
    assert torch.equal(again.reshape(moved.shape), moved)


def test_the_sizes_are_those_of_files_and_add_up(tmp_path: Path) -> None:
    model = prunus.prune(net(), EXAMPLE, "weights=10%", Weights(scope="local")).model
    names = ["0.weight", "2.weight", "4.weight"]
    found = sizes(model, names)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert found.dense == (tmp_path / "model.safetensors").stat().st_size
    # Every weight of at most 65 536 columns costs 6 bytes a nonzero entry, and 4 a row; the rest is dense.
    expected = 4 * (64 + 128 + 4)
    for name in names:
        weight = model.state_dict()[name]
        expected += min(6 * int(weight.count_nonzero()) + 4 * (len(weight) + 1), 4 * weight.numel())
    parts = {"biases": torch.zeros(196)} | {f"{n}.{k}": t for n in names for k, t in csr(model.state_dict()[n]).items()}
    save_file(parts, tmp_path / "csr.safetensors")
    assert 0 <= found.csr - expected < 1500, "the header names the tensors"
    assert max(found.csr, found.deflated) < 0.3 * found.dense, "a tenth is left"
    assert len(load_file(tmp_path / "csr.safetensors")) == 10 and header(tmp_path / "csr.safetensors") < 1500


def test_dense_weights_stay_dense_in_a_sparse_file() -> None:
    model = net()
    found = sizes(model, ["0.weight", "2.weight", "4.weight"])
    assert found.csr == found.dense and found.two_four is None


def test_two_of_four_takes_nine_sixteenths_of_a_float_weight() -> None:
    thin = prunus.prune(net(), EXAMPLE, method=Weights(pattern="2:4"))
    found = thin.sizes()
    weights = 8 * 64 + 64 * 128 + 128 * 4
    assert found.two_four is not None
    # Half of the values at 4 bytes, and 2 bits for each that stays: 2.125 bytes a weight instead of 4.
    assert abs((found.dense - found.two_four) - weights * (4 - 2.125)) < 600


def test_the_report_is_plain_data() -> None:
    from prunus.methods.sparsity import SPEED, as_json

    thin = prunus.prune(net(), EXAMPLE, "weights=50%", "weights")
    report = json.loads(json.dumps(as_json(thin, thin.sizes())))
    assert sum(layer["nonzero"] for layer in report["layers"]) == (8 * 64 + 64 * 128 + 128 * 4) // 2
    assert set(report["bytes_on_disk"]) == {"dense", "deflated", "csr", "two_four"}
    assert report["speed"] == SPEED and "do not speed up dense kernels" in SPEED
