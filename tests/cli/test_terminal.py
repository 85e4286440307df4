"""Where answers go: pipes that nobody reads any more, a closed stdout, encodings that lack signs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from prunus.cli import main


def test_a_table_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "prunus", "cost", "resnet20", "--input", "3,8,8"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["methods"], ["methods", "--json"]])
def test_a_closed_stdout_is_no_error(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(words) == 0
    sys.stdout.close()  # what `main` put there


def test_signs_that_the_terminal_lacks_have_others_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["inspect", "resnet20", "--input", "3,8,8"]) == 0
    lines = written.getvalue().decode("ascii").splitlines()
    assert lines[1:3] == ["|- conv1  16", "|    made by conv1, layer1.0.conv2, layer1.1.conv2, layer1.2.conv2"]
    assert "\\u" not in "".join(lines)


def test_a_choice_that_is_none_gets_the_nearest(refused: Callable[..., str]) -> None:
    line = refused("prune", "resnet20", "--target", "macs=50%", "--precision", "BF-16")
    assert "--precision: unknown choice 'BF-16'; did you mean 'bf16'? (allowed: bf16, fp16, fp32)" in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["PRUNE", "resnet20"], "did you mean 'prune'"),
        (["cost", "RESNET20", "--input", "3,8,8"], "did you mean 'resnet20'"),
        (["cost", "resnet20", "--input", "3,8,8", "--convention", "THOP"], "did you mean 'thop'"),
        (["prune", "resnet20", "--input", "3,8,8", "--target", "MACS=50%"], "did you mean 'macs'"),
    ],
)
def test_names_in_capitals(words: list[str], part: str, refused: Callable[..., str]) -> None:
    assert part in refused(*words)


def test_no_model_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "Nothing-Like-It"]) == 0
    assert capsys.readouterr().out == "no model has 'nothing-like-it' in its name\n"
