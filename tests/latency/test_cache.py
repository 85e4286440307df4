"""Layer timings on the disk: found again, kept apart by conditions, never believed where they cannot be right."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from clocks import Computed

from prunus.latency import cache
from prunus.latency.machine import timed
from prunus.latency.settings import Setting

SETTING = Setting("linear", 3)
WANTED = {SETTING: [(4, 8), (8, 8)]}
HERE = {"runtime": "eager", "threads": 1, "hardware": "none", "versions": {"torch": "0"}}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.folder() == tmp_path
    monkeypatch.delenv("PRUNUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.folder() == Path("/xdg/prunus")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "prunus"


def test_what_is_there_is_not_timed() -> None:
    first, second = Computed(), Computed()
    one = timed(first, WANTED)
    two = timed(second, {SETTING: [(4, 8), (5, 8)]})
    assert [at[1:] for at in first.layers] == [(4, 8), (8, 8)] and one.fresh == 4
    assert [at[1:] for at in second.layers] == [(5, 8)] and two.fresh == 1
    assert one.layer(SETTING, 4, 8) == two.layer(SETTING, 4, 8)
    content = json.loads(cache.file_of(HERE).read_text())
    assert set(content["seconds"]["linear 3 rows float32"]) == {"4,8", "8,8", "5,8"}
    assert content["conditions"] == HERE


@pytest.mark.parametrize("other", [{"threads": 2}, {"runtime": "compiled"}])
def test_other_conditions_have_another_file(other: dict[str, object]) -> None:
    timed(Computed(), WANTED)
    assert timed(Computed(**other), WANTED).fresh == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"format": 1, "cond', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"format": 2}', "made under other conditions"),
        ("7", "made under other conditions"),
        (json.dumps({"format": 1, "conditions": {**HERE, "threads": 8}, "seconds": {}}), "made under other conditions"),
        (json.dumps({"format": 1, "conditions": HERE, "seconds": {"a": {"1,1": -1.0}}}), "no time"),
        (json.dumps({"format": 1, "conditions": HERE, "seconds": {"a": {"1,1": "fast"}}}), "no time"),
        (json.dumps({"format": 1, "conditions": HERE, "seconds": {"a": {"1,1": float("inf")}}}), "no time"),
        (json.dumps({"format": 1, "conditions": HERE, "seconds": [1]}), "no time"),
    ],
)
def test_a_file_that_cannot_be_right_is_named_and_replaced(text: str, told: str) -> None:
    path = cache.file_of(HERE)
    path.write_text(text)
    found = timed(Computed(), WANTED)
    assert found.fresh == 4 and len(found.notes) == 1
    assert str(path) in found.notes[0] and told in found.notes[0]
    again = timed(Computed(), WANTED)
    assert again.fresh == 0 and again.notes == ()


def test_what_was_timed_before_an_interruption_is_kept() -> None:
    class Stopped(Computed):
        def layer(self, setting: Setting, inner: int, outer: int) -> float:
            if inner == 8:
                raise KeyboardInterrupt
            return super().layer(setting, inner, outer)

    with pytest.raises(KeyboardInterrupt):
        timed(Stopped(), WANTED)
    assert timed(Computed(), WANTED).fresh == 1


def test_a_terminal_shows_how_many_layers_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screens = [Terminal(), Terminal()]
    for screen in screens:
        monkeypatch.setattr("sys.stderr", screen)
        timed(Computed(), WANTED)
    assert "timing layers on" in screens[0].getvalue() and f"{sum(map(len, WANTED.values()))}" in screens[0].getvalue()
    assert screens[1].getvalue() == ""  # all of it was there


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "file"))
    found = timed(Computed(), WANTED)
    assert found.fresh == 4 and "was not written" in found.notes[-1]


def test_calling_a_file_is_paid_once_by_a_network() -> None:
    class Files(Computed):
        def relu(self, entries: int) -> float:
            return 1e-6 if entries == 1 else 1e-6 + 1e-9 * entries

        def layer(self, setting: Setting, inner: int, outer: int) -> float:
            return 1e-6 + 1e-7

    found = timed(Files(runtime="onnxruntime"), WANTED)
    assert found.layer(SETTING, 4, 8) == pytest.approx(1e-7) and found.entry == pytest.approx(1e-9)
    assert timed(Files(runtime="eager"), WANTED).layer(SETTING, 4, 8) == pytest.approx(1.1e-6)
