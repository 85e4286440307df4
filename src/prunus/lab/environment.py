"""What a run was made with: versions, hardware, the state of the source trees. Nothing in it names a person or a place
on a disk."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["environment", "git_state", "hardware", "versions", "without_places", "without_places_in"]

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "safetensors", "datasets", "timm")


def environment() -> dict[str, Any]:
    """Versions, hardware, and the git state of the working folder and of Prunus, where they lie in a repository."""
    return {
        "versions": versions(PACKAGES),
        "hardware": hardware(),
        "git": {"here": git_state(Path.cwd()), "prunus": git_state(PACKAGE) if _tracked(PACKAGE) else None},
    }


def versions(packages: tuple[str, ...] = ("torch",)) -> dict[str, str]:
    """Of Prunus, these packages as far as they are installed, Python."""
    import torch

    from prunus import __version__

    found = {"prunus": __version__, "torch": torch.__version__}
    for name in packages:
        try:
            found.setdefault(name, version(name))
        except PackageNotFoundError:
            continue
    return {**found, "python": platform.python_version()}


def hardware() -> dict[str, Any]:
    """The machine's kind; its name is nobody's business."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that a folder's repository is at, and whether tracked files were changed since; None outside."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def without_places(settings: Any) -> Any:
    """Settings in which a path from the root of the disk is only its last part: a run folder tells nothing of where it
    was made."""
    if isinstance(settings, Mapping):
        return {key: without_places(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [without_places(value) for value in settings]
    if isinstance(settings, str) and (os.path.isabs(settings) or settings.startswith("~")):
        return re.split(r"[/\\]", settings.rstrip("/\\"))[-1]
    return settings


def without_places_in(text: str) -> str:
    """A sentence in which paths from the root of a disk are only their last part; in quotes, and in the name of the
    home folder, they may hold spaces."""
    home = os.path.expanduser("~")
    if len(Path(home).parts) > 1:
        text = text.replace(home + os.sep, f"~{os.sep}")
    root = r"(?:~|[A-Za-z]:)?[/\\]"
    text = re.sub(rf"(['\"]){root}(?:[^'\"]*[/\\])?([^'\"/\\]*)[/\\]*\1", r"\1\2\1", text)
    return re.sub(rf"(?<![\w./\\])(?:{root})(?:[^\s'\"/\\]+[/\\])*([^\s'\"/\\]+)", r"\1", text)


def _git(folder: Path, *words: str) -> str | None:
    """What git says, or None where it is missing, slow or refuses."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _tracked(package: Path) -> bool:
    """Whether a package lies in a checkout of its own, and not installed somewhere inside another repository."""
    return _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None


def _processor() -> str | None:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
