"""Upload and download against a hub that is a folder: what is sent, what the card says, which commit is loaded.

The folder stands in for `huggingface_hub.HfApi` and `hf_hub_download`; nothing here reaches the real hub.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from saved import EXAMPLE, Net, seeded
from saved import small as cut

import prunus
from prunus.errors import CheckpointError, InputError, PlanError, StorageError
from prunus.files.card import Told, card
from prunus.files.hub import FromHub


@dataclass
class Hub:
    """Repositories below `root`: a folder for each commit, `main` the newest."""

    root: Path

    def api(self, token: str | None = None) -> Api:
        return Api(self, token)

    def main(self, repo: str) -> str:
        return (self.root / repo / "main").read_text()

    def download(self, repo: str, name: str, *, revision: str, token: str | None = None) -> str:
        file = self.root / repo / revision / name
        if not file.exists():
            raise FileNotFoundError(f"404: {repo} has no {name} at {revision}\nmore lines")
        return str(file)


@dataclass
class Api:
    hub: Hub
    token: str | None

    def create_repo(self, repo: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> None:
        if self.token == "wrong":
            raise OSError("401 Client Error: Unauthorized\nmore lines")
        assert repo_type == "model" and exist_ok
        (self.hub.root / repo).mkdir(parents=True, exist_ok=True)
        (self.hub.root / repo / "private").write_text(str(private))

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> Any:
        files = sorted(Path(folder_path).iterdir())
        oid = hashlib.sha1(b"".join(file.read_bytes() for file in files)).hexdigest()
        shutil.copytree(folder_path, self.hub.root / repo_id / oid)
        (self.hub.root / repo_id / "main").write_text(oid)
        return SimpleNamespace(oid=oid, commit_url=f"https://hub/{repo_id}/commit/{oid}")

    def model_info(self, repo: str, revision: str | None = None) -> Any:
        return SimpleNamespace(sha=self.hub.main(repo) if revision in (None, "main") else revision)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", found.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found.download)
    return found


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return torch.equal(one.eval()(EXAMPLE), other.eval()(EXAMPLE))


def test_up_and_down(hub: Hub) -> None:
    first, second = cut(), cut(target="macs=70%")
    done = prunus.push_to_hub(first, "someone/half", method="magnitude", private=True, license="mit")
    assert done.revision == hub.main("someone/half") and len(done.revision) == 40
    folder = hub.root / "someone/half" / done.revision
    assert sorted(f.name for f in folder.iterdir()) == ["README.md", "model.safetensors", "plan.json"]
    assert prunus.Plan.load(folder / "plan.json").kept == first.plan.kept
    assert (hub.root / "someone/half/private").read_text() == "True"
    assert f'prunus.from_hub("someone/half@{done.revision}", fresh_model)' in str(done)

    later = prunus.push_to_hub(second, "someone/half")
    assert later.revision != done.revision
    newest = prunus.from_hub("hf://someone/half", seeded(Net))
    assert isinstance(newest, FromHub) and newest.revision == later.revision and same(newest.model, second.model)
    pinned = prunus.from_hub(f"someone/half@{done.revision}", seeded(Net))
    assert pinned.revision == done.revision and same(pinned.model, first.model)
    assert same(prunus.from_hub("someone/half", seeded(Net), revision=done.revision).model, first.model)
    assert str(pinned).endswith(f"from someone/half@{done.revision}")
    again = prunus.push_to_hub(pinned, "someone/copy")  # what came down goes up again
    assert same(prunus.from_hub(f"someone/copy@{again.revision}", Net()).model, first.model)


def test_the_card_says_what_it_cost(hub: Hub) -> None:
    small = cut()
    done = prunus.push_to_hub(small, "someone/half", method="l1", license="apache-2.0", constructor="zoo.Net()")
    text = (hub.root / "someone/half" / done.revision / "README.md").read_text("utf-8")
    assert text.startswith("---\nlibrary_name: prunus\ntags:\n- pruning\nlicense: apache-2.0\n---\n\n# half\n")
    share = 100 * small.after.macs / small.before.macs
    assert f"| macs | {small.before.macs:,} | {small.after.macs:,} | {share:.2f} % |" in text
    assert f"| params | {small.before.params:,} | {small.after.params:,} |" in text
    assert "- target: `macs=50%`\n- method: `l1`\n" in text
    assert 'small = prunus.from_hub("someone/half", zoo.Net())' in text and "Nothing in these files is executed" in text


def test_a_card_from_a_file_counts_by_the_plan(hub: Hub, tmp_path: Path) -> None:
    small = cut()
    prunus.save(small, tmp_path / "small.safetensors")
    done = prunus.push_to_hub(tmp_path / "small.safetensors", "someone/half")
    folder = hub.root / "someone/half" / done.revision
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "small.safetensors").read_bytes()
    dense, left = (
        sum(t.numel() for t in (*net.parameters(), net.c.weight, *net.buffers()))  # c.weight is b.weight
        for net in (seeded(Net), small.model)
    )
    text = (folder / "README.md").read_text("utf-8")
    assert f"| entries of all named tensors | {dense:,} | {left:,} |" in text
    assert "your_constructor()" in text


def test_a_card_of_a_run(hub: Hub, tmp_path: Path) -> None:
    prunus.save(cut(), tmp_path / "model.safetensors")
    results = {
        "target": "macs=50%",
        "method": "fpgm",
        "before": {"macs": 1000, "params": 10},
        "after": {"macs": 400, "params": "lies"},
        "accuracy": {"before": 91.5, "cut": 40.25},
    }
    run = {"description": {"model": "resnet20", "classes": 10}, "results": results}
    (tmp_path / "run.json").write_text(json.dumps(run))
    done = prunus.push_to_hub(tmp_path, "someone/half")
    text = (hub.root / "someone/half" / done.revision / "README.md").read_text("utf-8")
    assert "| macs | 1,000 | 400 | 40.00 % |" in text and "params" not in text and "- method: `fpgm`" in text
    assert "| dense | 91.50 % |\n| after the cut | 40.25 % |" in text
    assert "prunus.models.resolve('resnet20', 10)" in text


def test_text_cannot_leave_its_place() -> None:
    told = Told(cut().plan, target="`\n# head", method="x`", constructor="make()\n```\nimport os")
    text = card("a/b", told)
    assert "- target: `' # head`" in text and "- method: `x'`" in text
    assert text.count("```") == 2 and "from_hub(\"a/b\", make() ''' import os)" in text


@pytest.mark.parametrize(
    ("name", "options", "error", "parts"),
    [
        ("half", {}, InputError, ["'half'", "user/name"]),
        ("a/../b", {}, InputError, ["user/name"]),
        ("someone/half@x", {"revision": "y"}, InputError, ["a revision already"]),
        ("someone/none", {}, CheckpointError, ["cannot fetch someone/none: FileNotFoundError"]),
        ("someone/half@v9", {}, CheckpointError, ["someone/half@v9", "404"]),
    ],
)
def test_what_cannot_be_fetched(
    name: str, options: dict[str, Any], error: type[Exception], parts: list[str], hub: Hub
) -> None:
    prunus.push_to_hub(cut(), "someone/half")
    with pytest.raises(error) as caught:
        prunus.from_hub(name, Net(), **options)
    line = str(caught.value)
    assert [part for part in parts if part not in line] == [] and "\n" not in line, line


def test_what_came_down_is_not_trusted(hub: Hub) -> None:
    done = prunus.push_to_hub(cut(), "someone/half")
    file = hub.root / "someone/half" / done.revision / "model.safetensors"
    with pytest.raises(PlanError):
        prunus.from_hub("someone/half", torch.nn.Linear(3, 4))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        prunus.from_hub("someone/half", Net())


def test_what_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    small = cut()
    for given, options, part in (
        (small, {"repo": "half"}, "user/name"),
        (small, {"license": "all of it"}, "license"),
        (3, {}, "not int"),
        (tmp_path / "a.safetensors", {"base": small}, "base="),
    ):
        with pytest.raises(InputError, match=part):
            prunus.push_to_hub(given, **({"repo": "someone/half"} | options))  # type: ignore[arg-type]
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match="pickle"):
        prunus.push_to_hub(tmp_path / "a.pt", "someone/half")
    with pytest.raises(StorageError, match=r"^cannot upload to someone/half: OSError: 401 Client Error: Unauthorized$"):
        prunus.push_to_hub(small, "someone/half", token="wrong")
    assert not (hub.root / "someone").exists()
