"""Sparsity training in other people's loops: plain PyTorch, Lightning, the Trainer of transformers, a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from shared import ROOT

from prunus.userfile import module_of

EXAMPLES = ROOT / "examples"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return module_of(EXAMPLES / "attach_pytorch.py")


@pytest.mark.parametrize("method", ["gates", "slimming", "ssl"])
def test_a_plain_loop(method: str, plain: ModuleType) -> None:
    found = plain.main(["--method", method, "--epochs", "4"])
    assert found["macs"] <= 40 and found["finetuned"] > 30
    if method == "gates":
        assert found["cut"] == found["sparse"], "shut channels are zero before they are cut"


@pytest.mark.filterwarnings("ignore::FutureWarning:.*", "ignore::DeprecationWarning:.*")  # its own, of torch and pytree
def test_lightning(plain: ModuleType) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    found = module_of(EXAMPLES / "attach_lightning.py").main(epochs=4)
    assert found["macs"] <= 40 and found["cut"] == found["sparse"] > 30


def test_the_trainer_of_transformers(plain: ModuleType) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    found = module_of(EXAMPLES / "attach_trainer.py").main(epochs=6)
    assert found["macs"] <= 40 and found["cut"] == found["sparse"] > 30


def test_the_notebook_runs_and_was_run(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "attach.ipynb").read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in code).replace("epochs = 12", "epochs = 3"), "utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "top-1 with gates" in done.stdout
