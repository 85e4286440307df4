"""The drawing of a traced network: lanes, colours, chips, and a page that a browser accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from browser import NAMES, chromium, open_page
from torch import Tensor, nn

import prunus
from prunus.cli import main
from prunus.lab.lanes import Lanes, Row, draw, placed
from prunus.lab.network import page_of, rows
from prunus.lab.page import render


class Residual(nn.Module):
    """A stem, one block whose branch returns to the stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.norm, self.two = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.two(self.norm(self.one(x)).relu())
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def found() -> prunus.Coupling:
    return prunus.trace(Residual(), torch.randn(2, 3, 8, 8))


def test_steps_are_what_reads_what(found: prunus.Coupling) -> None:
    assert [(step.name, step.inputs) for step in found.steps] == [
        ("conv2d", ()),
        ("conv2d", (0,)),
        ("batch_norm", (1,)),
        ("conv2d", (2,)),
        ("add", (0, 3)),
        ("linear", (4,)),
    ]


def test_rows_carry_groups_widths_and_shares(found: prunus.Coupling) -> None:
    stem, one, norm, two, total, head = rows(found)
    stream, inner = stem.group, one.group
    assert (stream, inner) == (0, 1) and two.group == total.group == stream and norm.group == inner
    assert [chip.text for chip in (*one.taken, *one.made)] == ["8", "4"]
    assert (stem.taken[0].text, stem.taken[0].group) == ("3", None)
    assert (head.made[0].text, head.made[0].group) == ("5", None) and head.group is None
    macs = {"stem": 64 * 8 * 27, "one": 64 * 32, "two": 64 * 32, "head": 40}
    assert one.share == pytest.approx(macs["one"] / sum(macs.values()))
    assert sum(row.share for row in rows(found)) == pytest.approx(1)


def test_a_branch_gets_a_lane_of_its_own_and_gives_it_back() -> None:
    chain = (Row("a", ""), Row("b", "", None, (0,)), Row("c", "", None, (1,)), Row("d", "", None, (0, 2)))
    places = placed((*chain, Row("e", "", None, (3,))))
    assert [p.lane for p in places] == [0, 1, 1, 0, 0]
    assert places[1].passing == [(0, 0)] and places[1].ending == [(0, 0)]
    assert sorted(places[3].ending) == [(0, 0), (1, 2)] and places[3].passing == []
    assert [p.goes_on for p in places] == [True, True, True, True, False]


def test_every_line_that_is_read_reaches_its_reader() -> None:
    dense = tuple(Row(str(k), "", None, tuple(range(k))) for k in range(6))
    places = placed(dense)
    for k, row in enumerate(dense):
        assert sorted(source for _, source in places[k].ending) == sorted(row.inputs)
        lanes = [lane for lane, _ in places[k].passing]
        assert len(set(lanes)) == len(lanes) and (places[k].lane not in lanes)


def test_names_are_escaped() -> None:
    html = draw(Lanes((Row("<script>", "&"),)))
    assert "<script>" not in html and "&lt;script&gt;" in html and "&amp;" in html


def test_the_page_says_what_is_pinned_and_opens_without_a_word(
    found: prunus.Coupling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html = render(page_of(found, "net"))
    assert "head outputs" in html and "the model&#x27;s output" in html
    page = tmp_path / "net.html"
    assert main(["inspect", "resnet20", "--input", "3,32,32", "--html", str(page)]) == 0
    assert f"the page: {page}" in capsys.readouterr().out
    browser = chromium()
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    document, console = open_page(browser, page)
    assert console == [] and "layer3.2.conv2" in document


def test_a_page_that_cannot_be_written_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet20", "--input", "3,32,32", "--html", str(tmp_path / "no" / "net.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
