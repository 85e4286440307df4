"""What is seen of a training: lines, JSON lines, trackers."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine.training import one_batch, small

from prunus.engine.config import Augment, Fit
from prunus.engine.history import Epoch
from prunus.engine.loop import Checkpoints, fit
from prunus.engine.task import Metrics
from prunus.engine.watch import JsonLines, Lines, Trackers, duration, flat
from prunus.errors import InputError, StorageError, UnknownName

METRICS = Metrics(50.0, 90.0, 1.5, 10)


def test_one_line_an_epoch_says_what_matters() -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.start([])
    lines.epoch(Epoch(1, 2.0, 0.0, 0.1, 1234.0, 90.0, METRICS, 0.05), 3)
    lines.epoch(Epoch(3, 1.0, 0.25, 0.1, 1234.0, 90.0, None, 0.6), 3)
    first, second = out.getvalue().splitlines()
    assert first == (
        "epoch 1/3  loss 2.0000  lr 0.1  1,234 images/s  top-1 50.00 %, top-5 90.00 %, loss 1.5000 (10 images)"
        "  3 min 00 s left"
    )
    assert second == (
        "epoch 3/3  loss 1.0000  penalty 0.25  lr 0.1  1,234 images/s  input is the bottleneck (60 % waiting)"
    )


def test_durations() -> None:
    assert [duration(s) for s in (12.4, 200, 3900)] == ["12 s", "3 min 20 s", "1 h 05 min"]


def test_json_lines_go_on_where_the_training_does(tmp_path: Path) -> None:
    log, folder = tmp_path / "metrics.jsonl", tmp_path / "checkpoints"

    class Stop(Exception):
        pass

    class Stopper:
        steps = 0

        def after_step(self) -> None:
            self.steps += 1
            if self.steps == 8:
                raise Stop

    config = Fit(3, lr=0.01)
    with pytest.raises(Stop):
        fit(
            small(), one_batch() * 3, config, hooks=[Stopper()], watchers=[JsonLines(log)],
            checkpoints=Checkpoints(folder), progress=False,
        )  # fmt: skip
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2]
    log.write_text(log.read_text() + '{"epoch": 3, "torn')
    config = Fit(3, lr=0.01)
    history = fit(
        small(), one_batch() * 3, config, hooks=[], watchers=[JsonLines(log)], checkpoints=None, progress=False
    )
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in found] == [1, 2, 3]
    assert [line["loss"] for line in found] == [epoch.loss for epoch in history.epochs]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*: No such file or directory"):
        fit(small(), one_batch(), Fit(lr=0.01), watchers=[JsonLines(tmp_path / "no" / "log")], progress=False)


def test_settings_are_flat_for_trackers() -> None:
    found = flat({"fit": Fit(steps=(3,), schedule="steps", augment=Augment(crop=4)), "name": "x"})
    assert (found["fit.augment.crop"], found["fit.steps"], found["fit.lr"], found["name"]) == (4, "(3,)", 0.1, "x")


def test_trackers_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        Trackers(["tensorbord"], tmp_path, "p", {})
    for name in ("mlflow", "wandb"):
        if find_spec(name) is None:
            with pytest.raises(InputError, match=f"tracker '{name}' needs a package: pip install {name}"):
                Trackers([name], tmp_path, "p", {})


def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tracker's package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(
        small(), one_batch() * 2, Fit(3, lr=0.01), watchers=[Trackers(["tensorboard"], tmp_path, "job", {"lr": 0.01})],
        validate=one_batch(), progress=False,
    )  # fmt: skip
    folder = next(path.parent for path in sorted(tmp_path.rglob("events.out*")) if path.parent.name == "job")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e.loss for e in history.epochs])
    assert "metrics.top1" in events.Tags()["scalars"]
