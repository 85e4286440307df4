"""benchmarks/published.py: sections load, lengths are what was asked for, rows by hand from plain and packed runs."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from runfolders import begun, made

from prunus.errors import InputError, UnknownName
from prunus.lab.recipe import plain


def section(name: str) -> Any:
    from published_sections import chosen

    (found,) = chosen([name])
    return found


def run_of(root: Path, name: str, seed: int, *overrides: str, smoke: bool = False, **figures: Any) -> Path:
    """A run folder of a section, with these settings; 93, 92.5 and so on are its figures."""
    settings = plain(section(name).load(overrides, smoke=smoke))
    sections = {key: settings.get(key) for key in ("train", "prune", "finetune")}
    sections |= {key: value for key, value in settings.items() if key not in ("name", "seed", *sections)}
    folder: Path = made(root, settings["name"], seed, **figures, **sections)
    content = json.loads((folder / "run.json").read_text("utf-8"))
    content["description"] = {"model": "resnet56", "classes": 10, "input": [3, 32, 32]}
    content["results"]["test"].pop("before", None) if "train" not in settings else None
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def cells(page: str, row: str) -> list[dict[str, str]]:
    """The lines of a section by the names of their columns."""
    found, head = [], []
    for line in page.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("| section"):
            head = parts
        elif line.startswith("|") and parts[0] == row:
            found.append(dict(zip(head, parts, strict=True)))
    return found


def page(*places: Path) -> str:
    from published_sections import systems
    from published_tables import found_in, page_of

    with found_in(places) as runs:
        return page_of(systems(), runs)


def test_every_section_has_a_recipe_that_loads_and_a_figure_or_a_reason() -> None:
    from published_sections import systems

    found = systems()
    sections = [section for system in found for section in system.sections]
    assert len(found) == 5 and len({section.id for section in sections}) == len(sections) == 66
    for one in sections:
        assert one.load().name == one.id and one.load(smoke=True).name == f"{one.id}-smoke"
        short = [fit.epochs for fit in one.load(smoke=True).trainings.values()]
        assert sum(short) <= 12, one.id
        figures = {key for key, value in one.published.items() if value is not None} - {"convention"}
        assert figures or one.differs, one.id
        assert set(one.published) <= {
            *("dense", "top1", "best", "sd", "n", "macs", "params", "convention", "minutes_epoch", "iterations_k")
        }
    published = {"dense", "top1", "macs", "params"}
    assert published <= set(section("cifar10-vgg16-dcff").published)


def test_patterns_name_sections() -> None:
    from published_sections import chosen

    assert [s.id for s in chosen(["cifar10-*-dcff"])] == [
        f"cifar10-{net}-dcff" for net in ("vgg16", "resnet56", "resnet110", "googlenet")
    ]
    with pytest.raises(UnknownName, match="did you mean 'cifar10-vgg16-dcff'"):
        chosen(["cifar10-vgg16-dcf"])


def test_a_shorter_training_keeps_its_shape() -> None:
    from published_sections import shortened

    one = section("cifar100-vgg16-ssl-filter-40")
    assert list(shortened(one.load(), 10)) == [
        *("sparsity.epochs=10", "sparsity.steps=[4.0, 6.0, 8.0]", "sparsity.warmup=0.5"),
        *("finetune.epochs=10", "finetune.steps=[4.0, 6.0, 8.0]", "finetune.warmup=0.5"),
    ]
    assert list(shortened(one.load(), 100)) == []
    small = one.load(shortened(one.load(), 10))
    assert small.sparsity is not None and small.sparsity.steps == (4.0, 6.0, 8.0)


def test_gates_of_a_shorter_training_are_fixed_before_its_end() -> None:
    """At the published 65 of 90 epochs, and so at 13 of 18."""
    from published_sections import shortened

    one = section("imagenet-resnet50-gates-41")
    short = one.load(shortened(one.load(), 18)).sparsity
    assert short is not None and (short.epochs, short.warmup, short.options["freeze"]) == (18, 1.6, 13)
    assert short.options["mix"] == 0 and one.load().sparsity.options["freeze"] == 65


def test_a_row_by_hand(tmp_path: Path) -> None:
    name = "cifar10-resnet56-hrank"
    for seed, value in enumerate((92.0, 93.0, 94.0)):
        run_of(tmp_path, name, seed, "name=cifar10-resnet56-hrank-20-epochs", "train.epochs=20", finetuned=value)
    text = page(tmp_path)
    (row,) = cells(text, "ResNet-56, CIFAR-10, HRank")
    assert (row["run"], row["seeds"], row["epochs"], row["published epochs"]) == ("shortened", "3", "3+2", "300+150")
    assert (row["dense"], row["top-1"], row["sd"], row["best"]) == ("90.00", "93.00", "1.00", "94.00")
    assert (row["published dense"], row["published top-1"], row["published drop"]) == ("93.26", "93.35", "-0.09")
    # What the description names is counted by the published rule: ResNet-56 at full size.
    assert (row["MACs"], row["parameters"], row["counted as"]) == ("126,550,656", "80", "thop")
    assert (row["published MACs"], row["published parameters"]) == ("57,539,904", "398,744")
    notes = {line.partition(". ")[0]: line for line in text.splitlines() if ". shortened: " in line}
    assert list(notes.values()) == [f"{n}. shortened: `train.epochs` 20 for 300" for n in notes]
    assert set(notes) < set(row["differs"].split(", "))


def test_no_row_is_blank_and_smoke_is_called_so(tmp_path: Path) -> None:
    run_of(tmp_path, "cifar10-resnet56-dcff", 0, smoke=True, before=50.0, finetuned=40.0)
    begun(tmp_path, "cifar10-vgg16-dcff", 0, error="ProofError: differs")
    text = page(tmp_path)
    (row,) = cells(text, "ResNet-56, CIFAR-10, DCFF")
    assert (row["run"], row["top-1"], row["published top-1"]) == ("smoke", "40.00", "92.49")
    assert row.get("dense", "") == ""  # nothing was trained at full size
    assert "smoke: " in text and "`data.limit` 320 for none" in text
    (row,) = cells(text, "VGG-16, CIFAR-10, DCFF")
    assert row["run"].endswith(", failed") and row["top-1"] == ""
    (row,) = cells(text, "MobileNetV1, ImageNet, DCFF")
    assert (row["run"], row["published epochs"]) == ("not run", "90") and row["differs"]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| section", "| :-"))]
    assert len(lines) == 66 and text.count("\n## ") == 5


def test_runs_of_the_recipe_itself_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    """`prunus run recipes/cifar100-vgg16-ssl.toml --set …` keeps the recipe's name."""
    own = ("name=cifar100-vgg16-ssl",)
    run_of(tmp_path / "a", "cifar100-vgg16-ssl-filter-40", 0, *own, finetuned=70.0)
    run_of(tmp_path / "b", "cifar100-vgg16-ssl", 0, *own, finetuned=80.0)
    run_of(tmp_path / "c", "cifar100-vgg16-ssl", 0, *own, "prune.target=channels=70%", finetuned=75.0)
    text = page(tmp_path)
    (first,) = cells(text, "VGG16-BN, CIFAR-100, filter, group\\_lasso, 20 %")
    (second,) = cells(text, "VGG16-BN, CIFAR-100, filter, mean\\_abs, 40 %")
    assert (first["top-1"], second["top-1"]) == ("80.00", "70.00")
    assert "75.00" not in text


def test_packed_runs_are_read_like_plain_ones(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "plain", "cifar10-resnet56-hrank", 0, finetuned=92.0)
    expected = page(tmp_path / "plain")
    assert "| full length |" in expected
    with tarfile.open(tmp_path / "runs.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plain", "plain")
    for path in sorted(folder.iterdir()):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    assert page(tmp_path / "runs.tar.gz") == page(tmp_path / "plain") == expected
    (tmp_path / "no.tar").write_text("no archive", encoding="utf-8")
    with pytest.raises(InputError, match="neither a folder nor a tar archive"):
        page(tmp_path / "no.tar")


def test_the_page_is_written_between_its_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from published import main

    target = tmp_path / "page.md"
    target.write_text("above\n<!-- published: begin -->\nold\n<!-- published: end -->\nbelow\n", encoding="utf-8")
    assert main(["--report", "--runs", str(tmp_path), "--page", str(target)]) == 0
    text = target.read_text("utf-8")
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "No section has been run." in text and "| not run |" in text
    assert main(["--report", "--page", str(tmp_path / "none.md")]) == 2
    assert main(["nothing", "--list"]) == 2
    capsys.readouterr()
    assert main(["cifar10-vgg16-dcff", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar10-vgg16-dcff: VGG-16, CIFAR-10, DCFF; epochs: sparsity 300"
    assert lines[1] == "    prunus run recipes/cifar10-vgg16-dcff.toml"
