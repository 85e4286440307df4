"""The runs of a sweep on a Ray cluster of two workers on this machine, of which one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from shared import ROOT
from sweeps import recipe

import prunus
from prunus.errors import MissingExtra
from prunus.lab import cluster
from prunus.lab.errand import Errand
from prunus.lab.explain import toml
from prunus.lab.runs import find, read

SCRIPT = """
import sys

import ray

import prunus

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
swept = prunus.sweep(sys.argv[1], grid={"prune.target": ["macs=60%"]}, repeat=2, out=sys.argv[2], jobs=2, on="ray")
print("failed:", swept.failed)
"""


@pytest.mark.cluster
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """One worker is killed in the second epoch of its run; both runs end with the weights of an undisturbed one."""
    raw = recipe(tmp_path)
    (tmp_path / "tiny.toml").write_text(toml(raw), encoding="utf-8")
    env = {**os.environ, "PRUNUS_TEST_KILL": str(tmp_path / "killed"), "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), env.get("PYTHONPATH", "")))}
    env.pop("RAY_ADDRESS", None)
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "tiny.toml"), str(tmp_path / "runs")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "failed: ()" in done.stdout and (tmp_path / "killed").exists()
    runs = find([tmp_path / "runs"])
    assert [run.status for run in runs] == ["done", "done"]
    logs = [(run.folder / "log.txt").read_text("utf-8") for run in runs]
    assert sum("baseline: goes on, training 2 epochs" in log for log in logs) == 1
    alone = prunus.run(raw, out=tmp_path / "alone", repeat=2, progress=False, say=lambda line: None)
    for one, other in zip(runs, alone.chains, strict=True):
        assert one.results["test"] == other.results["test"]
        weights = [(found.folder / "model.safetensors").read_bytes() for found in (one, other)]
        assert weights[0] == weights[1]


class Fake:
    """As much of Ray as the crew uses; every run is lost."""

    class Lost(Exception):
        pass

    def __init__(self) -> None:
        self.cancelled: list[object] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, "GPU": 1.0}

    def remote(self, **needs: object) -> object:
        self.needs = needs
        return lambda work: self

    def get(self, one: object) -> str:
        raise Fake.Lost("the node is gone\nand more")

    def cancel(self, one: object, *, force: bool) -> None:
        self.cancelled.append(one)


def test_what_the_cluster_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    monkeypatch.setattr(cluster, "_ray", lambda: fake)
    crew = cluster.Cluster(None, 2, gpu=True)
    assert crew.size == 4 and fake.needs == {"num_cpus": 2, "max_retries": 2, "num_gpus": 1}
    assert cluster.Cluster(3, 2, gpu=False).size == 3 and "num_gpus" not in fake.needs
    place = tmp_path / "a" / "seed-0"
    place.mkdir(parents=True)
    errand = Errand({}, str(tmp_path), str(place), str(tmp_path))

    class Make:
        def remote(self, text: str) -> str:
            assert Errand.of(text) == errand
            return "one"

    crew.make = Make()
    ended = crew.carry_out(0, errand)
    assert ended.status == "failed" and "the node is gone" in ended.why and "more" not in ended.why
    run = read(place)
    assert run is not None and run.status == "failed"
    crew.at_work[1] = "other"
    crew.close()
    assert fake.cancelled == ["other"]


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'ray is not installed; run: pip install "prunus\[cluster\]"'):
        cluster.Cluster(1, 1, gpu=False)
