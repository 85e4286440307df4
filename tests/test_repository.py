"""What holds for the repository as a whole: sizes of files, names, versions, and that importing is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from shared import ROOT

import prunus

PACKAGE = ROOT / "src" / "prunus"
WRITTEN = (".py", ".css", ".toml", ".md")
OURS = ("src", "tests", "examples", "benchmarks", "docs", "recipes")


def written() -> list[Path]:
    return [path for part in OURS for path in sorted((ROOT / part).rglob("*")) if path.suffix in WRITTEN]


def python(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_file_is_longer_than_400_lines() -> None:
    files = written()
    assert len(files) > 20
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text("utf-8").splitlines())) > 400}
    assert long == {}


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc"])
def test_no_file_without_a_subject(name: str) -> None:
    assert not [path for path in PACKAGE.rglob("*") if path.stem in (name, name.removesuffix("s"))]


def test_import_prunus_brings_in_no_torch() -> None:
    heavy = "{'torch', 'numpy', 'torchvision', 'rich', 'datasets', 'timm', 'PIL', 'argparse'}"
    assert python(f"import sys, prunus; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_command_line_brings_in_no_torch_before_a_verb_runs() -> None:
    code = "import sys; from prunus.cli import main; main(['prune', '--help']); print('torch' in sys.modules)"
    assert python(code).endswith("False")


def test_every_lazy_name_is_there() -> None:
    for name in prunus.__all__:
        assert getattr(prunus, name) is not None
    assert set(prunus.__all__) <= set(dir(prunus))


def test_the_modules_that_the_documentation_names_load_on_first_use() -> None:
    code = "import prunus; print(prunus.graph.rule.__name__, prunus.target.Seconds(0.008), len(prunus.repair.REPAIRS))"
    assert python(code) == "rule 8ms 3"
    assert python("import prunus; print(prunus.surgery.verify.__name__)") == "verify"


def test_a_missing_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'prunus' has no attribute 'prun'"):
        _ = prunus.prun


def test_no_module_hides_a_lazy_name() -> None:
    """`import prunus.cost` would set prunus.cost to a module; so no module may be called like a public function."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert not modules & set(prunus.__all__)


def test_the_lazy_names_survive_the_import_of_every_module() -> None:
    code = (
        "import pkgutil, importlib, prunus\n"
        "for m in pkgutil.walk_packages(prunus.__path__, 'prunus.'):\n"
        "    if '__main__' not in m.name: importlib.import_module(m.name)\n"
        "print([n for n in prunus.__all__ if n[0].islower() and not callable(getattr(prunus, n))])"
    )
    assert python(code) == "[]"


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {prunus.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_what_pip_was_told() -> None:
    try:
        installed = distribution("prunus")
    except PackageNotFoundError:
        pytest.skip("prunus is on the path but not installed")
    assert installed.version == prunus.__version__
    assert [(point.name, point.value) for point in installed.entry_points] == [("prunus", "prunus.cli:main")]
    extras = {"cluster", "dev", "docs", "export", "int8", "lab", "timm"}
    assert set(installed.metadata.get_all("Provides-Extra") or []) == extras


def test_the_bundled_files_travel_with_the_package() -> None:
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "lab" / "assets" / "page.css").stat().st_size < 10_000


def test_the_readme_names_commands_that_exist() -> None:
    from prunus.cli import verbs

    text = (ROOT / "README.md").read_text("utf-8")
    commands = [line.split() for line in text.splitlines() if line.startswith("prunus ")]
    assert len(commands) >= 5
    assert {words[1] for words in commands} <= {verb.name for verb in verbs()}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = [line.split()[1] for line in text.splitlines() if line.startswith("make ")]
    assert targets and all(f"\n{target}:" in makefile for target in targets)
