"""The command line without a model: help, values, exit codes, time to answer."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from typing import NoReturn

import pytest

import prunus.cli
from prunus.cli import main, verbs, warned
from prunus.cli.options import floats, rates, shape, widths
from prunus.cli.verb import Reply, Verb, read
from prunus.errors import InputError, ProofError, TargetError

VERBS = [verb.name for verb in verbs()]


def one_line(err: str) -> str:
    """The text of the one line on stderr."""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    return err.strip()


def test_the_verbs_are_those_of_the_manual() -> None:
    work = "demo run train prune finetune eval cost bench export inspect sensitivity"
    assert f"{work} recipe sweep runs compare report models methods".split() == VERBS


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    example = text.partition("example:\n")[2].strip()
    assert example.startswith(f"prunus {name}")
    assert "--json" in text and "--debug" in text
    (verb,) = (verb for verb in verbs() if verb.name == name)
    read(verb, verb.example.split()[2:])  # the example parses


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb.name} " in text and verb.summary in text for verb in verbs())
    assert "example:\n  prunus demo" in text


def test_no_verb_is_a_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: prunus VERB" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"prunus {prunus.__version__}\n"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["prun"], ["unknown verb 'prun'", "did you mean 'prune'"]),
        (["prune", "resnet20", "--taget", "macs=50%"], ["unknown option '--taget'", "did you mean '--target'"]),
        (["prune", "resnet20", "--targ=macs=50%"], ["unknown option '--targ'", "did you mean '--target'"]),
        (["models", "--zebra"], ["unknown option '--zebra'"]),
        (["cost", "resnet20", "more"], ["unexpected 'more'"]),
        (["cost", "resnet20", "--input", "3x32x32"], ["--input", "'3x32x32'", "3,32,32"]),
        (["cost", "resnet20", "--input", "3,0,32"], ["--input", "'3,0,32'"]),
        (["cost", "resnet20", "--input"], ["--input", "expected one argument"]),
        (["cost", "resnet20", "--classes", "0"], ["--classes", "at least 1"]),
        (["cost", "resnet20", "--rates", "[0.45]*"], ["--rates"]),
        (["eval", "resnet20", "--mean", "a,b"], ["--mean", "'a,b'", ".485,.456,.406"]),
        (["eval", "resnet20", "--precision", "int3"], ["--precision", "int3", "bf16"]),
        (["eval", "resnet20", "--seed", "-1"], ["--seed"]),
        (["eval", "resnet20", "--batch-size", "0"], ["--batch-size", "at least 1"]),
        (["finetune", "resnet20", "--lr", "0"], ["--lr", "above 0"]),
        (["prune", "resnet20", "--widths", "conv1"], ["--widths", "'conv1'", "features.0=24"]),
        (["prune", "resnet20", "--rates", "layer4.*=2"], ["--rates", "'layer4.*=2'"]),
        (["prune", "resnet20", "--rates-layout", "backward"], ["--rates-layout", "forward"]),
    ],
)
def test_wrong_words_get_one_line_and_exit_2(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    line = one_line(captured.err)
    assert captured.out == "" and line.startswith("prunus")
    assert [part for part in parts if part not in line] == []


def fake(error: BaseException) -> Verb:
    def run(options: argparse.Namespace) -> NoReturn:
        raise error

    return Verb("fail", "Fails.", "prunus fail", lambda parser: None, run)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("wrong"), 2, "prunus fail: wrong"),
        (TargetError("two\n  lines"), 2, "prunus fail: two lines"),
        (ProofError("differs"), 1, "prunus fail: differs"),
        (
            RuntimeError("deep\ninside"),
            1,
            "prunus fail: RuntimeError: deep inside (run again with --debug for the traceback)",
        ),
        (KeyboardInterrupt(), 130, "prunus fail: interrupted"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prunus.cli, "verbs", lambda: (fake(error),))
    assert main(["fail"]) == code
    assert one_line(capsys.readouterr().err) == text


@pytest.mark.parametrize("error", [InputError("wrong"), RuntimeError("deep")])
def test_debug_shows_the_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunus.cli, "verbs", lambda: (fake(error),))
    with pytest.raises(type(error)):
        main(["fail", "--debug"])


def test_json_is_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: argparse.Namespace) -> Reply:
        return Reply({"a": 1.5, "b": None}, lambda: print("for people"))

    verb = Verb("say", "Says.", "prunus say", lambda parser: None, run)
    monkeypatch.setattr(prunus.cli, "verbs", lambda: (verb,))
    assert main(["say", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1.5, "b": None}
    assert main(["say"]) == 0
    assert capsys.readouterr().out == "for people\n"


def test_json_is_strict_and_what_code_of_the_users_prints_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: argparse.Namespace) -> Reply:
        print("from a file of the user's")
        return Reply({"loss": [float("nan"), (float("-inf"), 2)], "day": date(2020, 1, 2)}, lambda: None)

    verb = Verb("say", "Says.", "prunus say", lambda parser: None, run)
    monkeypatch.setattr(prunus.cli, "verbs", lambda: (verb,))
    assert main(["say", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"loss": [None, [None, 2]], "day": "2020-01-02"}
    assert captured.err == "from a file of the user's\n"


def test_code_that_ends_the_program_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prunus.cli, "verbs", lambda: (fake(SystemExit(0)),))
    assert main(["fail"]) == 1
    assert "ended the program with 0" in one_line(capsys.readouterr().err)


def test_a_warning_of_the_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warned("prunus eval"):
        told = warnings.formatwarning("two\nlines", UserWarning, prunus.cli.__file__, 3)
        other = warnings.formatwarning("deep", UserWarning, "/lib/torch/x.py", 3, "x()")
    assert told == "prunus eval: warning: two lines\n" and other.startswith("/lib/torch/x.py:3: UserWarning: deep")


def test_values() -> None:
    assert shape("3,32,32") == (3, 32, 32)
    assert floats(".485,.456,1") == (0.485, 0.456, 1.0)
    assert widths("features.0=24, features.3=48") == {"features.0": 24, "features.3": 48}
    assert rates("layer4.*=.7,layer3.*=0") == {"layer4.*": 0.7, "layer3.*": 0.0}
    assert rates("[0.45]*2+[0.0]") == "[0.45]*2+[0.0]"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`prunus --help | head -1` ends quietly."""
    line = f"{sys.executable} -m prunus --help | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["prune", "--help"]])
def test_help_answers_at_once(words: list[str]) -> None:
    """Median of 10 under 0.4 s, from the start of the process; on a busy machine, of what the processor spent on it."""
    times, spent = [], []
    for _ in range(10):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "prunus", *words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(time.perf_counter() - start)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    waited = os.getloadavg()[0] > (os.cpu_count() or 1)
    assert statistics.median(spent if waited else times) < 0.4
