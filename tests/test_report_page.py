"""The report as a page and in a notebook, and what a browser makes of it."""

import base64
import html
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import HoverTool
from markers import marks_long_on
from matplotlib.image import imread
from test_report import LITTLE_TO_SHOW
from test_report import NAN
from test_report import TIMING
from test_report import component
from test_report import little_to_show
from test_report import report
from test_report import together

from keras_grades.component import Component
from keras_grades.component import VariableSpec

# A report knows nothing of backends.
pytestmark = marks_long_on("jax", "tensorflow")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its styles."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.styles = ""

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.found and self.found[-1][0] == "style":
            self.styles += text


def page(one, folder):
    """The text of the page, as it is on the disk."""
    path = folder / "report.html"
    one.to_html(path)
    return path.read_text(encoding="utf-8")


def models(text):
    """The charts and the table of a page, by name."""
    [data] = re.findall(
        r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S
    )
    [document] = json.loads(html.unescape(data)).values()
    roots = Document.from_json(document).roots
    return {root.name: root for root in roots}


def columns(text):
    """The columns of the table, by name."""
    data = models(text)["table"].source.data
    return {name: list(values) for name, values in data.items()}


def legend(chart):
    return [item.label.value for item in chart.legend[0].items]


def transformer(blocks, roles, frozen=7):
    """The first so many of each block froze, one after the other."""
    names = ["query", "key", "value", "attention_output"]
    names += ["ffn_up", "ffn_down", "ffn_gate"]
    return [
        component(f"layer_{i}/{role}", 10 * (i + j + 1) if j < frozen else None)
        for i in range(blocks)
        for j, role in enumerate(names[:roles])
    ]


# --- The page ----------------------------------------------------------------


def test_the_page_needs_no_network(tmp_path):
    text = page(report(), tmp_path)
    elements = Elements()
    elements.feed(text)
    assert [tag for tag, _ in elements.found].count("script") > 3
    for _, attributes in elements.found:
        assert not attributes.keys() & {"src", "href", "data", "srcset"}
    assert "@import" not in text
    assert not re.findall(r"url\([^)]*http", elements.styles)


def test_the_page_has_the_totals_and_the_arguments(tmp_path):
    text = page(report(timing=TIMING), tmp_path)
    title = "GradES: 2 of 4 components frozen, stopped at step 5 of 10"
    assert f"<title>{title}</title>" in text
    assert f"<h1>{title}</h1>" in text
    pairs = dict(re.findall(r"<th>(.*?)</th><td>(.*?)</td>", text))
    assert pairs["parameters frozen"] == "40 of 100 (40%)"
    assert pairs["saved by freezing"] == "79.8 s"
    assert pairs["monitor"] == "gradient"


def test_the_title_of_a_run_that_was_not_stopped(tmp_path):
    text = page(report(stopped_step=None), tmp_path)
    assert (
        "<h1>GradES: 2 of 4 components frozen, ran 5 of 10 steps</h1>" in text
    )


def test_the_table_has_a_row_for_each_component(tmp_path):
    one = report(tau=[1.0, 2.0, 3.0, 4.0])
    text = page(one, tmp_path)
    actual = columns(text)
    assert actual["name"] == [c.name for c in one.components]
    assert actual["block"] == ["layer_0", "layer_0", "layer_0", "layer_1"]
    kinds = ["query", "feed-forward up", "feed-forward down", "query"]
    assert actual["kind"] == kinds
    assert actual["shape"] == ["2 × 5", "5 × 6", "5 × 4", "8 × 5"]
    assert actual["parameters"] == [10, 30, 20, 40]
    assert actual["tau"] == [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(actual["frozen_at"], [3, 4, NAN, NAN])
    # At the fifth step: 8 / (4 + i + 1).
    np.testing.assert_allclose(actual["last"], [8 / 5, 8 / 6, 8 / 7, 1])
    shown = models(text)["table"].columns
    assert {c.field for c in shown} == actual.keys() - {"x", "y", "state"}
    assert all(c.sortable for c in shown)


def test_the_last_statistic_is_the_last_that_was_measured(tmp_path):
    statistic = [[1, NAN, 5, 8], [2, NAN, NAN, float("inf")], [3, NAN, 6, NAN]]
    text = page(report(statistic=statistic), tmp_path)
    np.testing.assert_array_equal(columns(text)["last"], [3, NAN, 6, 8])


def test_a_lora_pair_has_the_parameters_of_both(tmp_path):
    pair = [
        VariableSpec("b/query/lora_kernel", s, "float32")
        for s in [(8, 2), (2, 8)]
    ]
    lora = Component("b/query/lora", "query", "b", tuple(pair), 3)
    actual = columns(page(report([lora]), tmp_path))
    assert actual["shape"] == ["8 × 2"]
    assert actual["parameters"] == [32]


def test_a_cell_of_the_heat_map_is_where_its_block_and_role_are(tmp_path):
    text = page(report(), tmp_path)
    actual = columns(text)
    assert actual["x"] == [0.5, 1.5, 2.5, 0.5]
    assert actual["y"] == [0.5, 0.5, 0.5, 1.5]
    chart = models(text)["steps"]
    assert chart.xaxis[0].major_label_overrides == {
        0.5: "query",
        1.5: "feed-forward up",
        2.5: "feed-forward down",
    }
    blocks = {0.5: "layer_0", 1.5: "layer_1"}
    assert chart.yaxis[0].major_label_overrides == blocks
    frozen, trained = [r.view.filter.booleans for r in chart.renderers[1:]]
    assert frozen == [True, True, False, False]
    assert trained == [False, False, True, True]


def test_towers_have_lines_of_their_own(tmp_path):
    paths = ["text/b_0/self/query", "text/b_0/cross/query", "image/b_0/a/query"]
    blocks = ["text/b_0", "text/b_0", "image/b_0"]
    one = report([component(p, 3, block=b) for p, b in zip(paths, blocks)])
    text = page(one, tmp_path)
    assert columns(text)["y"] == [1.5, 2.5, 4.5]
    chart = models(text)["steps"]
    labels = {1.5: "b_0", 2.5: "cross", 4.5: "b_0"}
    assert chart.yaxis[0].major_label_overrides == labels
    titles = chart.renderers[0].data_source.data
    assert list(titles["text"]) == ["text", "image"]
    assert list(titles["y"]) == [0.5, 3.5]


def test_the_end_of_a_long_label_is_kept(tmp_path):
    block = "a_rather_long_name_of_a_block_17"
    text = page(report([component("x/query", 3, block=block)]), tmp_path)
    [label] = models(text)["steps"].yaxis[0].major_label_overrides.values()
    assert label == "…her_long_name_of_a_block_17"
    assert columns(text)["block"] == [block]


def test_the_curves_are_those_of_the_picture(tmp_path):
    chart = models(page(report(), tmp_path))["curves"]
    assert type(chart.y_scale).__name__ == "LogScale"
    assert chart.yaxis[0].axis_label == "size of the gradient (L1 norm)"
    assert legend(chart) == [
        "query",
        "feed-forward up",
        "feed-forward down",
        "threshold (tau) = 2",
        "grace period: nothing freezes",
        "stopped at step 5 of 10",
    ]
    line, band = chart.legend[0].items[0].renderers
    assert list(line.data_source.data["x"]) == [1, 2, 3, 4, 5]
    # The components 0 and 3: 8 / 1 and 8 / 4 at the first step.
    assert line.data_source.data["y"][0] == pytest.approx(5.0)
    assert band.data_source.data["y1"][0] == pytest.approx(2.0)
    assert band.data_source.data["y2"][0] == pytest.approx(8.0)


def test_the_pointer_shows_all_kinds_of_a_step(tmp_path):
    statistic = np.array([[1, 2, NAN, 3], [4, 5, 6, 8]])
    chart = models(page(report(statistic=statistic), tmp_path))["curves"]
    [hover] = chart.select(HoverTool)
    [line] = hover.renderers
    assert line.data_source.data["step"] == [1, 2]
    assert line.data_source.data["query"] == ["2 (1 to 3)", "6 (4 to 8)"]
    assert line.data_source.data["ffn_down"] == ["–", "6 (6 to 6)"]


def test_a_threshold_of_zero_is_on_a_linear_axis(tmp_path):
    chart = models(page(together(), tmp_path))["curves"]
    assert type(chart.y_scale).__name__ == "LinearScale"
    labels = ["query", "mean of all, compared with tau", "threshold (tau) = 0"]
    assert legend(chart)[:3] == labels


def test_names_are_text_and_never_markup(tmp_path):
    name = "<script>alert(1)</script>/a&b"
    one = report(
        [component(f"{name}/query", 3, block=name)],
        settings={"monitor": name},
    )
    text = page(one, tmp_path)
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert columns(text)["name"] == [f"{name}/query"]
    # Bokeh escapes what is shown on hover, unless it is told otherwise.
    for name in ("curves", "steps"):
        [hover] = models(text)[name].select(HoverTool)
        assert "safe" not in str(hover.tooltips)


@pytest.mark.filterwarnings("error")
@little_to_show
def test_runs_with_little_to_show_have_a_page(changes, tmp_path, caplog):
    text = page(report(**changes), tmp_path)
    assert models(text).keys() == {"curves", "steps", "table"}
    assert not caplog.records


def test_a_large_model_has_all_its_rows(tmp_path):
    text = page(report(transformer(32, 7)), tmp_path)
    assert len(columns(text)["name"]) == 224
    assert len(text) < 3e6


# --- In a browser ------------------------------------------------------------

BEFORE = """<script>
window.said = []
for (const kind of ["error", "warn"])
  console[kind] = (...words) => said.push(words.join(" "))
for (const kind of ["error", "unhandledrejection"])
  addEventListener(kind, event => said.push(`${event.message ?? event.reason}`))
</script>"""

# Bokeh draws in shadow trees, which --dump-dom does not show.
AFTER = """<script>
const all = root => [...root.querySelectorAll("*")].flatMap(
  element => [element, ...(element.shadowRoot ? all(element.shadowRoot) : [])])
const find = css => all(document).filter(element => element.matches(css))
const top_of = element => element.getBoundingClientRect().top
const rows = () => find(".slick-row")
  .sort((a, b) => top_of(a) - top_of(b))
  .map(row => [...row.children].map(cell => cell.innerText))
const wait = () => new Promise(done => setTimeout(done, 300))
async function look() {
  while (!window.Bokeh?.documents[0]?.is_idle) await wait()
  const seen = {rows: rows(), sorted: {}, images: find("img").length}
  for (const header of find(".slick-header-column")) {
    header.click()
    await wait()
    seen.sorted[header.innerText.trim()] = rows()
  }
  seen.canvases = find("canvas").filter(canvas => canvas.width > 300).length
  seen.said = said
  const pre = document.body.appendChild(document.createElement("pre"))
  pre.id = "seen"
  pre.textContent = JSON.stringify(seen)
}
look()
</script>"""


def browse(path, *options):
    """Opens a page without a window."""
    # Root, as in a container, has no sandbox.
    return subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
            f"--user-data-dir={path.parent / 'browser'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--window-size=1280,1500",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def look(one, folder):
    """What a browser shows, before and after a click on each header."""
    path = folder / "probed.html"
    start, head, rest = page(one, folder).partition("<head>")
    path.write_text(start + head + BEFORE + rest + AFTER, "utf-8")
    dom = browse(path, "--dump-dom").stdout
    [seen] = re.findall(r'<pre id="seen">(.*?)</pre>', dom, re.S)
    return json.loads(html.unescape(seen))


needs_browser = pytest.mark.skipif(not BROWSER, reason="no browser")


@needs_browser
@pytest.mark.parametrize(
    "size", [(6, 6), (32, 7, 4)], ids=["36", "224_some_trained"]
)
def test_a_browser_shows_the_page_and_sorts_it(size, tmp_path):
    one = report(transformer(*size), steps=400)
    seen = look(one, tmp_path)
    assert seen["said"] == []
    assert seen["canvases"] >= 2
    first = ["layer_0/query", "query", "layer_0", "2 × 5", "10", "2", "10"]
    assert seen["rows"][0][:-1] == first
    assert len(seen["rows"]) >= 20
    steps = [c.frozen_at for c in one.components]
    shown = [row[6] for row in seen["sorted"]["frozen at step"]]
    expected = ["–" if step is None else str(step) for step in steps]
    assert shown == sorted(expected, key=_as_number)[: len(shown)]


def _as_number(cell):
    return float("inf") if cell == "–" else float(cell)


@needs_browser
@pytest.mark.parametrize("size", [(6, 6), (32, 7)], ids=["36", "224"])
def test_a_browser_paints_the_page(size, tmp_path):
    page(report(transformer(*size), steps=400), tmp_path)
    image = tmp_path / "page.png"
    done = browse(tmp_path / "report.html", f"--screenshot={image}")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said
    for line in said:
        assert "setting log level" in line or "document idle" in line
    pixels = (imread(image)[..., :3] * 255).round().astype("uint8")
    colors = {tuple(c) for c in np.unique(pixels.reshape(-1, 3), axis=0)}
    first, last, query = (68, 1, 84), (253, 231, 36), (0, 114, 178)
    assert {first, last, query} <= colors
    # Charts, and the table below them, fill the page.
    assert (pixels[:, 400:] < 250).any(axis=(1, 2)).mean() > 0.5


@needs_browser
def test_a_browser_takes_names_for_text_and_sorts_them_by_number(tmp_path):
    names = [f"<img src=x onerror=alert(1)>_{i}" for i in (10, 2, 1)]
    one = report([component(f"{n}/query", 3, block=n) for n in names])
    seen = look(one, tmp_path)
    assert seen["said"] == []
    assert seen["images"] == 0
    blocks = [row[2] for row in seen["sorted"]["block"]]
    assert blocks == names[::-1]


@needs_browser
@pytest.mark.parametrize("name", ["no_steps", "nan", "no_components"])
def test_a_browser_shows_what_there_is(name, tmp_path):
    seen = look(report(**LITTLE_TO_SHOW[name]), tmp_path)
    assert seen["said"] == []
    assert seen["canvases"] >= 2


# --- In a notebook -----------------------------------------------------------


def picture(text):
    """The image in the HTML, or `None`."""
    found = re.findall(r'<img [^>]*src="data:image/png;base64,(.*?)">', text)
    return imread(io.BytesIO(base64.b64decode(*found))) if found else None


def test_a_notebook_shows_the_totals_and_the_picture():
    text = report()._repr_html_()
    title = "GradES: 2 of 4 components frozen, stopped at step 5 of 10"
    assert f"<h4>{title}</h4>" in text
    assert "<th>parameters frozen</th><td>40 of 100 (40%)</td>" in text
    assert "<script" not in text
    image = picture(text)
    assert image.shape[1] > 1000
    # The blue of query, give or take what few colours cost.
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    assert np.abs(image[..., :3] - blue).max(-1).min() < 0.05


def test_what_a_notebook_shows_is_small():
    noise = np.random.default_rng(0).lognormal(size=(2000, 224))
    one = report(transformer(32, 7, 4), statistic=noise, steps=2000)
    assert len(one._repr_html_()) < 150_000


@pytest.mark.filterwarnings("error")
@little_to_show
def test_runs_with_little_to_show_have_a_notebook_cell(changes):
    assert picture(report(**changes)._repr_html_()) is not None


# Without matplotlib the picture cannot be imported, nor can PIL.
@pytest.mark.parametrize("package", ["keras_grades.report.picture", "PIL"])
def test_a_notebook_without_matplotlib_shows_the_totals(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    text = report()._repr_html_()
    assert "components frozen" in text
    assert picture(text) is None


def test_a_notebook_needs_neither_bokeh_nor_rich():
    # Keras itself imports rich, so that is forgotten first.
    code = """
import sys
import test_report
for name in list(sys.modules):
    if name.split(".")[0] == "rich":
        del sys.modules[name]
sys.modules["rich"] = sys.modules["bokeh"] = None
assert "<img" in test_report.report()._repr_html_()
"""
    folder = pathlib.Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
