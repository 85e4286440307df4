"""Reports: rows and columns by hand, escaping in every format, the drawings, the page in a browser, a thousand runs."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, chromium, open_page
from runfolders import begun, made

import prunus
from prunus.cli import main
from prunus.errors import InputError, UnknownName
from prunus.lab.curves import Chart, Charts, Curve
from prunus.lab.curves import draw as draw_curves
from prunus.lab.formats import as_csv, as_markdown, as_tex, figure, text_of
from prunus.lab.gallery import charts_of
from prunus.lab.runs import entries, find
from prunus.lab.scatter import Point, Scatter, draw, front, ticks

EVIL = '=<script>alert("1")</script>&|`_\\x$%#{}~^[a](b)'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """a: three seeds; b: one seed done, one failed, one stopped."""
    for seed, value in enumerate((84.0, 86.0, 88.0)):
        made(tmp_path, "a", seed, finetuned=value)
    slimming = {"target": "macs=70%,params=60%", "method": "slimming"}
    sparsity = {"method": "gates", "epochs": 2, "target": "macs=70%"}
    folder = made(tmp_path, "b", 0, finetuned=89.0, macs=700, prune=slimming, sparsity=sparsity)
    lines = [{"epoch": 1, "macs": 0.9}, {"epoch": 2, "macs": 0.68}]
    (folder / "shares-sparsity.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), "utf-8")
    begun(tmp_path, "b", 1, error="ProofError: differs", prune=slimming, sparsity=sparsity)
    begun(tmp_path, "b", 2, prune=slimming, sparsity=sparsity)
    begun(tmp_path, "c", 0)
    return tmp_path


def rows(root: Path, **more: Any) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in prunus.report(root, **more).rows}


def test_a_row_by_hand(root: Path) -> None:
    """84, 86, 88: mean 86, sd 2, and 4.303 · 2 / √3 = 4.968 on both sides."""
    row = rows(root, columns=["finetune.lr", "macs-left"])["a"]
    assert (row["status"], row["n"], row["fine-tuned"], row["best"], row["sd"]) == ("done", 3, 86.0, 88.0, 2.0)
    assert row["low"] == pytest.approx(81.032, abs=1e-3) and row["high"] == pytest.approx(90.968, abs=1e-3)
    assert (row["dense"], row["cut"], row["drop"], row["top-5"]) == (90.0, 40.0, 4.0, 99.0)
    assert (row["macs"], row["macs removed %"], row["params"], row["params removed %"]) == (500, 50.0, 80, 60.0)
    assert (row["asked"], row["actual"], row["epochs"], row["minutes"]) == ("macs=50%", "macs 50.00 %", "3+2", 1.5)
    assert (row["finetune.lr"], row["macs-left"]) == (0.02, 50.0)


def test_pending_and_failed_runs_are_shown(root: Path) -> None:
    found = rows(root)
    assert found["b"]["status"] == "1 of 3 done; seed 1 failed, seed 2 pending"
    assert found["b"]["actual"] == "macs 70.00 %, params 40.00 %" and found["b"]["sd"] is None
    assert found["c"]["status"] == "pending" and found["c"]["macs"] is None and found["c"]["asked"] == "macs=50%"


def test_a_row_a_stage(root: Path) -> None:
    found = [row for row in prunus.report(root, stages=True).rows if row["run"] == "a"]
    assert [(row["stage"], row["top-1"], row["macs"], row["epochs"], row["minutes"]) for row in found] == [
        ("dense", 90.0, 1000, 3, 1.0),
        ("cut", 40.0, 500, None, None),
        ("fine-tuned", 86.0, 500, 2, 0.5),
    ]
    assert [row["stage"] for row in prunus.report(root, stages=True).rows if row["run"] == "c"] == [None]


def test_columns_conditions_and_kinds(root: Path, tmp_path: Path) -> None:
    assert "after sparsity training" not in prunus.report(root).head
    assert set(rows(root, conditions=["prune.method=slimming"])) == {"b"}
    with pytest.raises(UnknownName, match=r"did you mean 'finetune\.lr'"):
        prunus.report(root, columns=["finetune.l"])
    with pytest.raises(UnknownName, match=r"kind of report '\.pdf'"):
        prunus.report(root, tmp_path / "a.pdf")
    with pytest.raises(InputError, match="no run meets"):
        prunus.report(root, conditions=["seed=99"])
    with pytest.raises(InputError, match="there is no folder"):
        prunus.report(root, tmp_path / "nowhere" / "a.md")


def test_csv_holds_full_numbers_and_no_formula(root: Path, tmp_path: Path) -> None:
    prunus.report(root, tmp_path / "t.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text("utf-8"))))
    assert table[0]["fine-tuned"] == "86.0" and table[0]["macs"] == "500" and table[2]["fine-tuned"] == ""
    for text in ("=1+1", "+1", "-1", "@A1", "\t=1", " =1", EVIL):
        ((_,), (cell,)) = csv.reader(io.StringIO(as_csv(["run"], [{"run": text}])))
        assert cell.startswith("'") and cell.lstrip("'").strip() == text_of(text).strip()
    ((head,), (number,)) = csv.reader(io.StringIO(as_csv(["=x"], [{"=x": -1.25}])))
    assert (head, number) == ("'=x", "-1.25")
    hostile = 'a,"b"\nc'
    assert list(csv.reader(io.StringIO(as_csv(["run"], [{"run": hostile}]))))[1] == ['a,"b" c']


def test_markdown_cells_do_not_break_the_table() -> None:
    text = as_markdown(["run", "n"], [{"run": EVIL + "\n| x |", "n": 3}])
    lines = text.splitlines()
    assert len(lines) == 3 and "<script" not in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    assert lines[2].endswith("| 3 |") and "\\[a\\]" in lines[2]


def test_tex_cells_hold_no_commands() -> None:
    text = as_tex(["run", "a_b %"], [{"run": EVIL, "a_b %": 93.391}])
    row = text.splitlines()[4]
    assert row.endswith("& 93.39 \\\\") and r"a\_b \%" in text and text.count(" & ") == 2
    rest = re.sub(r"\\(text\w+\{\}|[&%$#_{}])", "", row.removesuffix("\\\\"))
    assert "\\" not in rest and not set(rest.replace(" & ", "").replace("{[}", "").replace("{]}", "")) & set(
        "&%$#_{}~^"
    )


def test_numbers_for_people() -> None:
    assert [figure(x) for x in (1257472.0, 93.391, 0.0, 0.000123, None)] == [
        "1,257,472",
        "93.39",
        "0.00",
        "0.000123",
        "",
    ]
    assert [text_of(x) for x in (True, 50000, 0.0005, [1, 2.5], {"a": 1, "b": None}, "a\nb")] == [
        *("true", "50,000", "0.0005"),
        *("1, 2.5", "a=1", "a b"),
    ]


def test_the_front_is_what_nothing_cheaper_beats() -> None:
    points = [
        Point("a", 3, 90),
        Point("b", 1, 80),
        Point("c", 2, 79),
        Point("d", 3, 91),
        Point("e", 9, 91),
        Point("dense", 10, 99, rival=False),
    ]
    assert [point.label for point in front(points)] == ["b", "d"]


def test_ticks_are_round() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(91.3, 93.9) == pytest.approx([91.5, 92, 92.5, 93, 93.5])
    assert ticks(3, 3) == [3]


def test_points_stand_where_their_figures_say() -> None:
    """The drawing is linear: the middle of three points lies in the middle, and error bars are as long as intervals."""
    html = draw(
        Scatter(tuple(Point(str(k), 1e6 * k, 10 * k, 10 * k - 2, 10 * k + 2, f"run-{k}") for k in (1, 2, 3)), "x", "y")
    )
    at = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)]
    assert at[1] == (
        pytest.approx((at[0][0] + at[2][0]) / 2, abs=0.1),
        pytest.approx((at[0][1] + at[2][1]) / 2, abs=0.1),
    )
    ends = [(float(a), float(b)) for a, b in re.findall(r'class="error" d="M[\d.]+ ([\d.]+)V([\d.]+)"', html)]
    assert ends[1][0] - ends[1][1] == pytest.approx((at[0][1] - at[1][1]) * 4 / 10, abs=0.2)
    assert "millions" in html and html.count('href="#run-2"') == 2
    assert "nothing to draw" in draw(Scatter((), "x", "y"))


def test_curves_and_the_budget(root: Path) -> None:
    loss, accuracy, shares = charts_of(entries(find([root / "b"]))[0]).charts
    assert loss.curves[0].points == ((1, 2.0), (2, 1.0), (3, 2 / 3), (4, 2.0), (5, 1.0))
    assert loss.stages == ((0, "baseline"), (3, "finetune")) and accuracy.curves[0].points[-1] == (5, 32.0)
    assert (
        shares.level == 70.0 and shares.curves[0].points == ((1, 90.0), (2, 68.0)) and "budget 70" in shares.level_text
    )
    html = draw_curves(Charts((Chart("t", (Curve("c", tuple((k, k * k) for k in range(1000))),), level=3.0),)))
    assert html.count("L") == 199 and 'class="level"' in html


class Reader(HTMLParser):
    """Tags, and the anchors and links among them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links |= {(found["href"] or "")} if tag == "a" else set()


def test_the_page(root: Path, tmp_path: Path) -> None:
    prunus.report(root, tmp_path / "page.html", title="My runs")
    html = (tmp_path / "page.html").read_text("utf-8")
    reader = Reader()
    reader.feed(html)
    assert reader.ids == {"run-1", "run-2", "run-3"} and reader.links == {"#run-1", "#run-2", "#run-3"}
    assert "<title>My runs</title>" in html and "http:" not in html and "https:" not in html
    assert "ProofError: differs" in html and "seed 1 failed, seed 2 pending" in html
    assert "95 % interval 81.03 … 90.97" in html and "8 → 4" in html and "budget 70 %" in html


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = {"name": EVIL}
    made(tmp_path / "plain", "a", 0)
    folder = made(
        tmp_path / "evil",
        "a",
        0,
        widths=((EVIL, 8, 4), ("b", 9, 9)),
        model=evil,
        prune={"target": EVIL, "method": EVIL},
    )
    text = (folder / "run.json").read_text("utf-8").replace('"recipe": "a"', f'"recipe": {json.dumps(EVIL)}')
    content = json.loads(text)
    content["results"]["settings"]["name"] = content["results"]["selection"] = EVIL
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    (folder / "environment.json").write_text(
        json.dumps({"versions": {EVIL: EVIL}, "git": {EVIL: {"commit": EVIL}}}), "utf-8"
    )
    tags = []
    for name in ("plain", "evil"):
        prunus.report(tmp_path / name, tmp_path / f"{name}.html", columns=["prune.method"], title=EVIL)
        reader = Reader()
        reader.feed((tmp_path / f"{name}.html").read_text("utf-8"))
        tags.append({tag: reader.tags.count(tag) for tag in ("script", "a", "svg", "section", "table", "img")})
    assert tags[0] == tags[1] and tags[0]["script"] == 1
    for kind in ("md", "tex", "csv"):
        prunus.report(tmp_path / "evil", tmp_path / f"t.{kind}", columns=["prune.method"])
        assert len((tmp_path / f"t.{kind}").read_text("utf-8").splitlines()) == {"md": 3, "tex": 7, "csv": 2}[kind]


def test_a_thousand_runs_in_ten_seconds(tmp_path: Path) -> None:
    for k in range(250):
        for seed in range(4):
            kept = {f"layer{g}": (64, range(seed, 64, 2)) for g in range(20)}
            made(tmp_path, f"run-{k}", seed, finetuned=80 + k / 50 + seed / 7, macs=300 + k, kept=kept)
    begin = time.process_time()
    found = prunus.report(tmp_path, tmp_path / "page.html")
    assert time.process_time() - begin < 10 and len(found.rows) == 250


def test_the_verb(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(root), "--out", str(tmp_path / "t.md"), "--columns", "prune.method"]) == 0
    assert "3 rows written to" in capsys.readouterr().out
    assert (
        (tmp_path / "t.md")
        .read_text("utf-8")
        .splitlines()[2]
        .startswith("| a | done | validation | 90.00 | 40.00 | 86.00 |")
    )
    assert main(["report", str(root), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] is None and answer["rows"][0]["fine-tuned"] == 86.0 and "sd" in answer["columns"]
    assert main(["report", str(root)]) == 0 and "seed 1 failed" in capsys.readouterr().out
    assert main(["report", str(root), "--out", str(tmp_path / "t.doc")]) == 2


@pytest.fixture(scope="module")
def browser() -> str:
    found = chromium()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


@pytest.mark.browser
def test_the_page_in_a_browser(root: Path, tmp_path: Path, browser: str) -> None:
    """Not a line in the console; at 360 pixels nothing reaches beyond the edge, but for what scrolls inside itself; the
    table sorts by a click, and a point says what it is under the pointer.

    The measuring script is added here, and the page's policy lets it in.
    """
    made(root, "a_run_with_a_very_long_name.that_never_breaks_anywhere_because_it_has_no_spaces", 0)
    prunus.report(root, tmp_path / "page.html", columns=["prune.method"])
    document, console = open_page(browser, tmp_path / "page.html")
    assert console == [] and document.count("<svg") > 8
    script = """<script>addEventListener("load", () => {
        document.documentElement.style.width = "360px"
        const wide = [...document.querySelectorAll("body *")].filter(
            e => !e.closest("table") && !e.closest("svg") && e.getBoundingClientRect().right > 360)
        document.title = "too wide: " + wide.map(e => e.tagName).join(" ") + "."
    })</script></body>"""
    html = re.sub(
        r"script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", (tmp_path / "page.html").read_text("utf-8")
    )
    (tmp_path / "phone.html").write_text(html.replace("</body>", script), "utf-8")
    document, console = open_page(browser, tmp_path / "phone.html", "--window-size=360,800")
    assert console == [] and "<title>too wide: .</title>" in document
    script = """<script>addEventListener("load", () => {
        const table = document.querySelector("table.wide"), heads = [...table.tHead.rows[0].cells]
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent.slice(0, 5)).join(" ")
        const button = heads.find(head => head.textContent === "fine-tuned").querySelector("button")
        const said = [names()]
        button.click(), said.push(names()), button.click(), said.push(names())
        said.push(button.closest("th").getAttribute("aria-sort"))
        const tip = document.querySelector(".tip"), dot = document.querySelector("figure.chart circle")
        said.push(tip.hidden)
        dot.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: 40, clientY: 90 }))
        said.push(tip.textContent, tip.hidden, tip.getBoundingClientRect().right <= innerWidth)
        document.body.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }))
        said.push(tip.hidden)
        document.title = said.join("|")
    })</script></body>"""
    (tmp_path / "hover.html").write_text(html.replace("</body>", script), "utf-8")
    document, console = open_page(browser, tmp_path / "hover.html", "--window-size=360,800")
    title = document.partition("<title>")[2].partition("</title>")[0].split("|")
    assert console == []
    assert title[:4] == ["a a_run b c", "a_run a b c", "b a a_run c", "descending"]
    assert title[4:] == ["true", "a: 86.00 at 500 (81.03 … 90.97)", "false", "true", "true"]
