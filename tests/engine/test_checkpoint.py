"""Checkpoint files: what comes back, and what is noticed when a file or a disk is bad."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prunus.engine import checkpoint
from prunus.engine.checkpoint import Checkpoints, newest, read, write
from prunus.errors import CheckpointError, StorageError

STATE = {
    "w": torch.arange(6.0).view(2, 3).to(torch.bfloat16),
    "tied": [torch.ones(2, dtype=torch.bool), {3: torch.tensor(7), "x": (1, 2.5, None, "ü", True)}],
    "array": np.arange(3),
    "number": np.float32(0.5),
    "none": {},
    "inf": float("inf"),
}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "new", 12, STATE)
    assert path.name == "step-00000012.safetensors"
    step, state = read(path)
    assert step == 12
    assert torch.equal(state["w"], STATE["w"])
    assert state["w"].dtype == torch.bfloat16
    assert state["tied"][0].tolist() == [True, True]
    assert state["tied"][1]["x"] == (1, 2.5, None, "ü", True)
    assert int(state["tied"][1][3]) == 7
    assert state["array"].tolist() == [0, 1, 2]
    assert (state["number"], state["none"], state["inf"]) == (0.5, {}, float("inf"))


def test_tensors_that_share_memory_are_held(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    _, state = read(write(tmp_path, 0, {"a": w, "b": w.view(2, 2).t()}))
    assert state["b"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_what_is_no_plain_data_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot hold /hook/0/made: object is no plain data"):
        write(tmp_path, 0, {"hook": [{"made": object()}]})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"w": torch.arange(40.0), "epoch": 3})
    good = path.read_bytes()
    draw = np.random.default_rng(0)
    for at in [*range(0, 8), *draw.integers(8, len(good), 60).tolist()]:
        bad = bytearray(good)
        bad[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(bytes(bad))
        try:
            _, state = read(path)
        except CheckpointError as error:
            assert str(path) in str(error)
        else:  # what filled up the header
            assert good[at : at + 1] == b" "
            assert torch.equal(state["w"], torch.arange(40.0))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda good: good[: len(good) // 2], "torn or no checkpoint"),
        (lambda good: good[:-1], "torn or no checkpoint"),
        (lambda good: b"", "torn or no checkpoint"),
        (lambda good: b"\x80\x04K\x01.", "torn or no checkpoint"),
    ],
)
def test_a_bad_file_is_named_and_the_one_before_is_used(damage, said: str, tmp_path: Path) -> None:
    write(tmp_path, 5, {"w": torch.tensor(5.0)})
    last = write(tmp_path, 10, {"w": torch.tensor(10.0)})
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(UserWarning, match=rf"step-00000010.*{said}.*; going on from step-00000005") as warned:
        found = newest(tmp_path)
    assert len(warned) == 1
    assert found is not None
    assert found[1] == 5
    assert float(found[2]["w"]) == 5.0


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "step-00000003.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(CheckpointError, match="is no training checkpoint of this version"):
        read(foreign)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used"):
        newest(tmp_path)


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None


def test_a_few_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in range(5):
        write(tmp_path, step, {"step": step})
    (tmp_path / ".step-00000009.safetensors.77.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.prune(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "notes.txt",
        *(f"step-0000000{step}.safetensors" for step in (2, 3, 4)),
    ]
    with pytest.raises(CheckpointError, match="keep=1 at least 2"):
        Checkpoints(tmp_path, keep=1)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, {"w": torch.zeros(3)})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"step 2 could not be written.*No space left on device; earlier checkpoints"
    ):
        write(tmp_path, 2, {"w": torch.zeros(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.safetensors"]


def test_a_small_file_system_that_fills_up(tmp_path: Path) -> None:
    """The real thing, where this user may limit the size of files: the write fails in its middle."""
    program = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from prunus.engine.checkpoint import write, newest; from prunus.errors import StorageError\n"
        "folder = Path(sys.argv[1]); write(folder, 1, {'w': torch.zeros(10)})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n    write(folder, 2, {'w': torch.zeros(100_000)})\n"
        "except StorageError as error:\n    print(error, newest(folder)[1], len(list(folder.iterdir())))\n"
    )
    if sys.platform == "win32":
        pytest.skip("limits on the size of files are a thing of Unix")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert "File too large; earlier checkpoints are untouched" in done.stdout
    assert done.stdout.split()[-2:] == ["1", "1"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"could not be written to .*; earlier checkpoints are untouched"):
        write(tmp_path / "file", 1, {"w": torch.zeros(1)})
    if os.geteuid() == 0:
        return  # root may write everywhere
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        write(locked, 1, {"w": torch.zeros(1)})


def test_the_header_is_json_and_holds_no_code(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"lr": 0.1, "w": torch.zeros(2)})
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["state"]) == {"lr": 0.1, "w": {"__tensor__": "/w"}}
