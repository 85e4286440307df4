"""The recipes of docs/deploy-executorch.md and docs/deploy-coreml.md, where those packages are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.models import resnet20

EXAMPLE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

# These packages warn of their own imports and of each other's versions.
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(package: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"needs {package}: pip install {package}")


@pytest.fixture(scope="module")
def small() -> prunus.Pruned:
    torch.manual_seed(0)
    return prunus.prune(resnet20(), EXAMPLE, "macs=50%", check=False)


@needs("executorch")
def test_executorch_computes_what_the_pruned_network_computes(small: prunus.Pruned, tmp_path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    prunus.export(small, EXAMPLE, tmp_path / "small.pt2")
    program = torch.export.load(tmp_path / "small.pt2")
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (tmp_path / "small.pte").write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(tmp_path / "small.pte").load_method("forward")
    for batch in (1, 2, 3):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            wanted = small.model.eval()(images)
        assert (method.execute([images])[0] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@needs("coremltools")
def test_core_ml_converts_a_frozen_trace_of_the_pruned_network(small: prunus.Pruned, tmp_path: Path) -> None:
    import coremltools

    trace = torch.jit.freeze(torch.jit.trace(small.model.eval(), EXAMPLE))
    made = coremltools.convert(trace, inputs=[coremltools.TensorType(shape=EXAMPLE.shape)])
    (output,) = made.get_spec().description.output
    assert list(output.type.multiArrayType.shape) == [1, 10]
    made.save(str(tmp_path / "small.mlpackage"))
    assert (tmp_path / "small.mlpackage" / "Manifest.json").is_file()


@needs("coremltools")
def test_core_ml_converts_a_pt2_of_a_pruned_network(tmp_path: Path) -> None:
    import coremltools

    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    small = prunus.prune(dense, EXAMPLE, "channels=50%")
    prunus.export(small, EXAMPLE, tmp_path / "small.pt2", dynamic=False)
    program = torch.export.load(tmp_path / "small.pt2").run_decompositions({})
    made = coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS16)
    (output,) = made.get_spec().description.output
    assert list(output.type.multiArrayType.shape) == [1, 4]
