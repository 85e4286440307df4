"""Cut networks on the Hugging Face hub: weights, plan and a card go up together, and come down at one commit."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, InputError, PrunusError, StorageError
from ..plan import Plan
from ..result import Loaded, Pruned
from .card import Told, card
from .file import Saved, first_line, read
from .network import load, plan_of, save

__all__ = ["FromHub", "Pushed", "from_hub", "push_to_hub"]

WEIGHTS, PLAN, CARD = "model.safetensors", "plan.json", "README.md"
SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pushed:
    """What went up: the commit is `revision`, which `from_hub` takes after an @."""

    repo: str
    revision: str
    url: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.url}\nprunus.from_hub("{self.repo}@{self.revision}", fresh_model)'


@dataclass(frozen=True, eq=False)
class FromHub(Loaded):
    """What came down, from `repo` at the commit `revision`."""

    repo: str = ""
    revision: str = ""

    def __str__(self) -> str:
        return f"{super().__str__()}\nfrom {self.repo}@{self.revision}"

    __repr__ = __str__


def push_to_hub(
    small: Pruned | Loaded | str | Path,
    repo: str,
    *,
    base: Pruned | Loaded | Plan | None = None,
    method: str | None = None,
    constructor: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> Pushed:
    """Upload a cut network as one commit: model.safetensors with the plan in it, plan.json, and a card in README.md.

    small: what `prune` or `load` returned, or a file that `prunus.save` wrote, or a run folder. base: as in `save`, for
    a network that was cut twice. repo: `user/name`; it is made where it does not exist, private if `private` says so.
    The card has costs before and after, target and method as far as they are known; method: how it was cut, where
    `small` does not say; constructor: code that makes the dense network, for the card; license: an identifier of the
    hub. token: of the hub; None for the one that is logged in.

    Raises InputError, CheckpointError for a file that is no cut network, StorageError where the upload fails.
    """
    hub, name = the_hub(), the_repo(repo)
    if license is not None and not re.fullmatch(r"[a-z0-9][\w.+-]*", license):
        raise InputError(f"license={license!r} is no identifier of the hub; give one such as apache-2.0")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        told = gathered(small, folder, base, method, constructor)
        told.plan.save(folder / PLAN)
        (folder / CARD).write_text(card(name, told, license), encoding="utf-8")
        with failing(StorageError, f"cannot upload to {name}"):
            api = hub.HfApi(token=token)
            api.create_repo(name, repo_type="model", private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                repo_type="model",
                commit_message="A cut network, its plan and its card",
            )
        return Pushed(name, str(done.oid), str(done.commit_url), (WEIGHTS, PLAN, CARD))


def from_hub(name: str, fresh_model: nn.Module, *, revision: str | None = None, token: str | None = None) -> FromHub:
    """A cut network from the hub: `user/name`, or `user/name@revision`, with or without hf:// before it.

    revision: a commit, branch or tag. What is loaded is always one commit, which the result names; without a revision
    it is today's newest of the main branch, so pin what must not change. fresh_model: as in `load`, which reads the
    file: nothing in it is executed. A commit of 40 digits that was fetched before needs no network.

    Raises InputError for a name that is none, CheckpointError where it cannot be fetched or is not whole, PlanError
    where fresh_model is not the network that was cut.
    """
    hub = the_hub()
    plain, _, said = name.removeprefix(SCHEME).partition("@")
    if said and revision is not None:
        raise InputError(f"{name!r} has a revision already; leave out revision={revision!r}")
    repo, wanted = the_repo(plain), said or revision
    with failing(CheckpointError, f"cannot fetch {repo}{f'@{wanted}' if wanted else ''}"):
        commit = wanted if wanted and COMMIT.fullmatch(wanted) else None
        if commit is None:
            commit = str(hub.HfApi(token=token).model_info(repo, revision=wanted).sha)
        file = Path(hub.hf_hub_download(repo, WEIGHTS, revision=commit, token=token))
    found = load(file, fresh_model)
    return FromHub(found.model, found.plan, found.masks, repo, commit)


def gathered(small: Any, folder: Path, base: Any, method: str | None, constructor: str | None) -> Told:
    """The weights in the folder, and what the card tells."""
    if isinstance(small, (Pruned, Loaded)):
        save(small, folder / WEIGHTS, base=base)
        saved = read(folder / WEIGHTS)
        plan = plan_of(saved.content)
        assert plan is not None
        if isinstance(small, Pruned) and base is None:
            return Told.of_pruned(small, plan, method, constructor)
        return Told(plan, shapes_of(saved), method=method, constructor=constructor)
    if not isinstance(small, (str, Path)):
        raise InputError(f"push_to_hub takes what prune or load returned, or a path, not {type(small).__name__}")
    if base is not None:
        raise InputError("base= is for a network in memory; a file already says how it was cut")
    path = Path(small)
    file = path / WEIGHTS if path.is_dir() else path
    saved = read(file)
    plan = plan_of(saved.content)
    if plan is None:
        raise InputError(f"{file} holds a network that was not cut; push_to_hub is for cut ones")
    shutil.copyfile(file, folder / WEIGHTS)
    return Told.of_run(file.parent, plan, shapes_of(saved), method, constructor)


def shapes_of(saved: Saved) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in saved.tensors.items()}


def the_repo(repo: str) -> str:
    """Raises InputError for what is no user/name."""
    if not isinstance(repo, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or ".." in repo:
        raise InputError(f"{repo!r} names no network of the hub; give user/name, such as someone/resnet56-half")
    return repo


def the_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("huggingface_hub is not installed; run: pip install huggingface_hub") from error
    return huggingface_hub


@contextmanager
def failing(kind: type[PrunusError], what: str) -> Iterator[None]:
    """Whatever the hub's client raises, in one line."""
    try:
        yield
    except PrunusError:
        raise
    except Exception as error:  # HTTP errors, missing names, no login, no network: several families
        raise kind(f"{what}: {type(error).__name__}: {first_line(error)}") from error
