"""The benchmark of fused steps: the two optimizers do the same, and the table says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def test_the_usual_optimizer_has_the_same_settings() -> None:
    import optimizer_step

    from prunus.engine.optimizer import optimizer

    net = torch.nn.Linear(3, 2)
    for config in optimizer_step.CONFIGS:
        fused = optimizer(net, config)
        plain = optimizer_step.usual(fused)
        for a, b in zip(fused.param_groups, plain.param_groups, strict=True):
            assert a.pop("fused") and not b.pop("fused") and a == b


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import optimizer_step

    page = tmp_path / "page.md"
    page.write_text("<!-- optimizer_step: begin -->\n<!-- optimizer_step: end -->\n", "utf-8")
    assert optimizer_step.main(["--models", "resnet20", "--rounds", "2", "--write", "--page", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "--models resnet20 --rounds 2`" in text and "| resnet20 | 0.3 | sgd |" in text and "| adamw |" in text
    assert text.count("times as fast") == 1 and capsys.readouterr().out.strip() in text
