"""The demo end to end, made shorter, and its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import NAMES, chromium, open_page

from prunus.cli import main
from prunus.engine.runtime import Runtime
from prunus.lab.demo import Demo, run

SHORT = Demo(epochs=2, finetune_epochs=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The folder that a short demo wrote, and its results."""
    out = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    finished = run(dataclasses.replace(SHORT, out=str(out)), Runtime(device="cpu"), progress=False, say=said.append)
    assert finished.page == out / "index.html" and len(said) == 2
    return out, json.loads((out / "run.json").read_text("utf-8"))["results"]


def test_the_budget_is_met_and_proven(shown: tuple[Path, dict[str, dict[str, float]]]) -> None:
    _, results = shown
    assert 0.295 < results["left"]["macs"] <= 0.3
    assert results["verified"] is True
    assert results["accuracy"]["before"] > 60


def test_the_page_tells_what_was_measured(shown: tuple[Path, dict[str, dict[str, float]]]) -> None:
    out, results = shown
    html = (out / "index.html").read_text("utf-8")
    for value in (results["before"]["macs"], results["after"]["macs"], results["after"]["params"]):
        assert f"<td>{value:,}</td>" in html
    for value in results["accuracy"].values():
        assert f"<td>{value:.2f} %</td>" in html
    assert html.count("<svg") == 12 + 2  # the groups of resnet20, its input and its output


@pytest.mark.browser
def test_the_page_opens_without_a_word_in_the_console(shown: tuple[Path, dict[str, object]]) -> None:
    browser = chromium()
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    document, console = open_page(browser, shown[0] / "index.html")
    assert console == [] and document.count("</section>") == 5


def test_the_demo_can_be_taken_further(
    shown: tuple[Path, dict[str, dict[str, float]]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = shown
    assert main(["eval", "--from", str(out), "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == results["accuracy"]["finetuned"]


def test_the_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options reach the demo, the defaults are Demo's, and stdout has one JSON object."""
    asked: list[Demo] = []

    def record(demo: Demo, runtime: Runtime, *, progress: bool, say: Callable[[str], None]) -> None:
        asked.append(demo)
        raise KeyboardInterrupt

    monkeypatch.setattr("prunus.lab.demo.run", record)
    assert main(["demo"]) == 130
    assert main(["demo", "--out", str(tmp_path), "--target", "params=50%", "--epochs", "3", "--json"]) == 130
    assert asked[0] == Demo()
    assert asked[1] == dataclasses.replace(Demo(), out=str(tmp_path), target="params=50%", epochs=3)
    assert capsys.readouterr().out == ""
