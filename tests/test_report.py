"""The report: numbers worked out by hand, and what ends up on the page."""

import json
import sys

import keras
import numpy as np
import pytest

from keras_grades.component import Component
from keras_grades.component import VariableSpec
from keras_grades.report import FreezeReport
from keras_grades.report import curves
from keras_grades.report.grid import to_grid
from keras_grades.report.work import estimate_work_saved

pytestmark = pytest.mark.alike

NAN = float("nan")
SETTINGS = {
    "monitor": "gradient",
    "norm": "l1",
    "alpha": 0.5,
    "grace_steps": 2,
    "patience": 0,
    "max_frozen_ratio": 1.0,
    "recompile": "auto",
    "backend": "torch",
}
TIMING = {
    "compilations": [
        {
            "step": 1300,
            "seconds": 12.5,
            "frozen": 7,
            "step_seconds_before": 0.25,
            "step_seconds_after": None,
        }
    ],
    "seconds_saved_measured": 79.75,
    "why_not_rebuilt": None,
}


def component(path, frozen_at=None, shape=(2, 5), block=None):
    """A component whose role is the last part of its path."""
    role = path.rpartition("/")[2]
    block = path.split("/")[0] if block is None else block
    variable = VariableSpec(f"{path}/kernel", shape, "float32")
    return Component(path, role, block, (variable,), frozen_at)


LITTLE_TO_SHOW = {
    "no_steps": {
        "statistic": np.zeros((0, 4)),
        "steps": 0,
        "stopped_step": None,
    },
    "nan": {"statistic": np.full((3, 4), NAN)},
    "zero": {"statistic": np.zeros((3, 4))},
    "one_step": {"statistic": np.ones((1, 4))},
    "no_components": {"components": [], "statistic": np.zeros((3, 0))},
    "one_frozen": {"components": [component("b/qkv", 3)]},
    "one_trained": {"components": [component("qkv", None, block="qkv")]},
    "unknown": {"total_steps": None, "stopped_step": None, "settings": None},
}
little_to_show = pytest.mark.parametrize(
    "changes", LITTLE_TO_SHOW.values(), ids=list(LITTLE_TO_SHOW)
)


def two_blocks():
    """10 + 30 + 20 parameters in one block, 40 in the other."""
    return [
        component("layer_0/attention/query", 3, (2, 5)),
        component("layer_0/mlp/ffn_up", 4, (5, 6)),
        component("layer_0/mlp/ffn_down", None, (5, 4)),
        component("layer_1/attention/query", None, (8, 5)),
    ]


def report(components=None, tau=None, statistic=None, **changes):
    components = two_blocks() if components is None else components
    n = len(components)
    if statistic is None:
        rows = [[8.0 / (t + i + 1) for i in range(n)] for t in range(5)]
        statistic = np.array(rows)
    arguments = {
        "components": components,
        "tau": [2.0] * n if tau is None else tau,
        "trace": {
            "step": np.arange(1, len(statistic) + 1),
            "statistic": statistic,
        },
        "steps": 5,
        "total_steps": 10,
        "stopped_step": 5,
        "settings": SETTINGS,
        "timing": None,
    }
    return FreezeReport(**{**arguments, **changes})


def cells(text, label):
    """The cells of the line that begins with this label."""
    [line] = [x for x in text.splitlines() if x.strip().startswith(label)]
    return line.strip().removeprefix(label).split()


@pytest.fixture
def width(monkeypatch):
    """Sets the width of the terminal."""
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


# --- Work saved --------------------------------------------------------------


def test_work_saved_weighs_steps_by_parameters():
    # 10 * 3 + 30 * 4 + 20 * 5 + 40 * 5 = 450 of 100 * 5, or of 100 * 10.
    assert report().work_saved == pytest.approx(0.1)
    assert report().work_saved_of_schedule == pytest.approx(0.55)


def test_the_step_at_which_it_froze_is_work_done():
    at_the_last = [component("b/query", frozen_at=5)]
    assert estimate_work_saved(at_the_last, 5) == 0.0
    at_the_first = [component("b/query", frozen_at=1)]
    assert estimate_work_saved(at_the_first, 5) == pytest.approx(0.8)


def test_without_a_schedule_only_the_run_counts():
    assert report(total_steps=None).work_saved_of_schedule is None


def test_no_steps_save_nothing():
    assert report(steps=0, total_steps=None).work_saved == 0.0
    assert report(components=[], statistic=np.zeros((0, 0))).work_saved == 0.0


# --- Data --------------------------------------------------------------------


def test_to_dict_has_the_run_and_its_components():
    data = report(timing=TIMING).to_dict()
    assert data["version"] == 1
    assert data["steps"] == 5
    assert data["total_steps"] == 10
    assert data["stopped_step"] == 5
    assert data["settings"] == SETTINGS
    assert data["timing"] == TIMING
    assert data["components_frozen"] == 2
    assert data["parameters"] == 100
    assert data["parameters_frozen"] == 40
    assert data["components"][1] == {
        "name": "layer_0/mlp/ffn_up",
        "role": "ffn_up",
        "block": "layer_0",
        "shape": [5, 6],
        "size": 30,
        "tau": 2.0,
        "frozen_at": 4,
    }
    assert data["components"][2]["frozen_at"] is None


def test_to_json_is_to_dict(tmp_path):
    one = report(timing=TIMING)
    one.to_json(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == one.to_dict()


def test_numpy_and_what_is_not_finite_become_json():
    statistic = [[1.5, NAN], [float("inf"), 0.25]]
    data = report(
        two_blocks()[:2],
        statistic=statistic,
        steps=np.int32(2),
        stopped_step=np.int64(2),
        settings={"alpha": np.float32(0.5)},
    ).to_dict()
    assert data["trace"] == {
        "step": [1, 2],
        "statistic": [[1.5, None], [None, 0.25]],
    }
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_training_on_does_not_change_a_report():
    components = two_blocks()
    statistic = np.ones((5, 4), "float32")
    timing = {"compilations": []}
    one = report(components, statistic=statistic, timing=timing)
    before = one.to_dict()
    components[2].frozen_at = 5
    statistic[:] = 9
    timing["compilations"].append({"step": 5})
    assert one.to_dict() == before


def test_a_report_does_not_keep_the_weights():
    weight = keras.Variable(np.ones((3, 2), "float32"))
    one = report([Component("a", "query", "a", (weight,))])
    [kept] = one.components[0].variables
    assert kept == VariableSpec(weight.path, (3, 2), "float32")


def test_tau_must_fit_the_components():
    with pytest.raises(ValueError, match="3 floats for 4 components"):
        report(tau=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("shape", [(4, 2), (8,), (2, 5)])
def test_the_trace_must_fit_steps_and_components(shape):
    trace = {"step": [1, 2], "statistic": np.zeros(shape)}
    with pytest.raises(ValueError, match=r"shape \(2, 4\). Received shape"):
        report(trace=trace)


# --- Grid --------------------------------------------------------------------


def labels(tower):
    return [row.label for row in tower.rows]


def test_grid_of_one_tower():
    components = two_blocks()
    [tower] = to_grid(components)
    assert tower.title == ""
    assert tower.roles == ["query", "ffn_up", "ffn_down"]
    assert labels(tower) == ["layer_0", "layer_1"]
    assert tower.rows[0].cells == {
        "query": components[0],
        "ffn_up": components[1],
        "ffn_down": components[2],
    }
    assert tower.rows[1].cells == {"query": components[3]}
    assert tower.rows[0].block == components[:3]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (
            ["vision_encoder/layer_0", "vision_encoder/layer_1", "decoder/a/0"],
            {"vision_encoder": ["layer_0", "layer_1"], "decoder/a": ["0"]},
        ),
        (
            ["t5/encoder_0", "t5/encoder_1", "t5/decoder_0"],
            {
                "t5/encoder": ["encoder_0", "encoder_1"],
                "t5/decoder": ["decoder_0"],
            },
        ),
        (
            ["encoder_layer_0", "decoder_layer_0", "decoder_layer_1"],
            {
                "encoder_layer": ["encoder_layer_0"],
                "decoder_layer": ["decoder_layer_0", "decoder_layer_1"],
            },
        ),
        (
            ["swin/stage_0/a", "swin/stage_1/a"],
            {"swin": ["stage_0/a", "stage_1/a"]},
        ),
        (
            ["block", "block_1", "block_2"],
            {"": ["block", "block_1", "block_2"]},
        ),
        (["block_0_up", "block_1_up"], {"": ["block_0_up", "block_1_up"]}),
    ],
)
def test_blocks_are_grouped_into_towers(blocks, expected):
    towers = to_grid([component(f"{b}/query", block=b) for b in blocks])
    assert {t.title: labels(t) for t in towers} == expected


def test_several_components_of_a_role_get_lines_of_their_own():
    names = ["query", "key"]
    own = [component(f"b/self_attention/{name}") for name in names]
    cross = [component(f"b/cross_attention/{name}") for name in names]
    routed = [component("b/moe/experts/ffn_up")]
    shared = [
        component("b/moe/shared/ffn_gate"),
        component("b/moe/shared/ffn_up"),
    ]
    [tower] = to_grid(own + cross + routed + shared)
    assert labels(tower) == ["b", "cross_attention", "moe/shared"]
    assert [list(row.cells.values()) for row in tower.rows] == [
        own + routed,
        cross,
        shared,
    ]
    assert [len(row.block) for row in tower.rows] == [7, 0, 0]


def test_a_role_twice_in_one_module_loses_nothing():
    def up(name):
        return Component(name, "ffn_up", "b", ())

    [tower] = to_grid([up("b/mlp/up"), up("b/mlp/up_2"), up("b/up_3")])
    assert labels(tower) == ["b", "mlp", "up_3"]
    shown = [row.cells["ffn_up"].name for row in tower.rows]
    assert shown == ["b/mlp/up", "b/mlp/up_2", "b/up_3"]


# --- Summary -----------------------------------------------------------------


def test_summary_has_the_freeze_steps(width):
    width(80)
    text = report().summary()
    assert cells(text, "layer_0") == ["3", "4", "–", "40", "(66%)"]
    assert cells(text, "layer_1") == ["–", "0", "(0%)"]
    header = text.splitlines()[1]
    assert header.split() == ["block", "query", "up", "down", "frozen"]


def test_a_cell_stands_below_its_role(width):
    width(80)
    one = report([component("a_0/query", 7), component("a_1/ffn_down", 9)])
    lines = one.summary().splitlines()
    [header] = [line for line in lines if "query" in line]
    [first] = [line for line in lines if line.startswith("a_0")]
    [second] = [line for line in lines if line.startswith("a_1")]
    assert first.index("7") == header.index("query") + len("query") - 1
    assert second.index("9") == header.index("down") + len("down") - 1


def test_summary_has_the_totals(width):
    width(80)
    text = report().summary()
    assert cells(text, "components frozen") == ["2", "of", "4", "(50%)"]
    assert cells(text, "parameters frozen") == ["40", "of", "100", "(40%)"]
    saved = " ".join(cells(text, "weight gradients not needed"))
    assert saved == "up to 10% over the steps run, 55% over the plan"
    assert cells(text, "stopped") == ["at", "step", "5", "of", "10"]
    assert "saved by" not in text


def test_summary_of_a_run_that_was_not_stopped(width):
    width(80)
    text = report(stopped_step=None, total_steps=None).summary()
    assert " ".join(cells(text, "stopped")) == "no (ran 5 steps)"
    assert "plan" not in text


def test_summary_has_the_timing(width):
    width(80)
    text = report(timing=TIMING).summary()
    assert " ".join(cells(text, "saved by stopping")) == "5 steps"
    assert " ".join(cells(text, "saved by freezing")) == "79.8 s"
    assert "train step compiled" in text.splitlines()
    assert cells(text, "1,300") == ["7", "12.5", "0.25"]


def test_summary_says_what_stopping_and_freezing_saved(width):
    width(120)
    compiled = [
        {**TIMING["compilations"][0], "step_seconds_after": 0.5},
        {**TIMING["compilations"][0], "seconds": 2.5},
    ]
    text = report(timing={**TIMING, "compilations": compiled}).summary()
    stopping = " ".join(cells(text, "saved by stopping"))
    assert stopping == "5 steps, some 2 s"  # 2.5, rounded to even.
    freezing = " ".join(cells(text, "saved by freezing"))
    assert freezing == "79.8 s, for 2.5 s of compiling"
    why = "a rebuild takes some 9.0 s, and might have saved 2.0 s"
    text = report(timing={**TIMING, "why_not_rebuilt": why}).summary()
    assert f"nothing: {why}" in text
    # Something else has stopped it.
    text = report(stopped_step=None, timing=TIMING).summary()
    assert cells(text, "saved by stopping") == ["nothing"]
    assert "over the plan" not in text


def test_summary_has_a_section_for_each_tower(width):
    width(80)
    lines = report(
        [component("vision/layer_0/query", 3, block="vision/layer_0")]
        + [component("text/layer_0/qkv", 4, block="text/layer_0")]
    ).summary()
    sections = [s.splitlines() for s in lines.split("\n\n")]
    assert [s[0] for s in sections[:2]] == ["vision", "text"]
    assert [s[-1].split()[:2] for s in sections[:2]] == [
        ["layer_0", "3"],
        ["layer_0", "4"],
    ]


def test_summary_fits_the_terminal_and_keeps_every_step(width):
    roles = ["query", "key", "value", "attention_output"]
    roles += ["ffn_up", "ffn_gate", "ffn_down"]
    steps = [10001 + i for i in range(7)]
    block = "transformer_decoder_layer_0"
    one = report([component(f"{block}/{r}", s) for r, s in zip(roles, steps)])
    widths = {}
    for columns in (40, 80, 200):
        width(columns)
        text = one.summary()
        widths[columns] = max(map(len, text.splitlines()))
        assert all(str(step) in text for step in steps)
    assert widths[40] <= 40
    assert widths[80] <= 80
    assert widths[200] > 80


def test_summary_is_plain_text_in_a_notebook(width, monkeypatch):
    """Where the kernel tells all to be coloured."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in report(timing=TIMING).summary()


def test_summary_knows_no_compilations_where_nothing_is_compiled(width):
    compiled = [{**c, "seconds": 0.0} for c in TIMING["compilations"]]
    text = report(timing={**TIMING, "compilations": compiled}).summary()
    assert "compiled" not in text


def test_numbers_have_the_unit_that_they_are_rounded_to():
    table = pytest.importorskip("keras_grades.report.table")
    numbers = (999, 1000, 999_499, 999_936, 1_234_567, 2_000_000_000)
    found = [table._short(n) for n in numbers]
    assert found == ["999", "1k", "999k", "1M", "1.23M", "2B"]


def test_summary_is_plain_text_off_the_terminal(width):
    width(80)
    names = ["layer_[red]0", "layer_1"]
    text = report([component(f"{n}/query", 3) for n in names]).summary()
    assert "\x1b" not in text
    assert "layer_[red]0" in text


# --- Plot --------------------------------------------------------------------


def drawn(figure):
    """The two axes of a figure that was really drawn."""
    figure.canvas.draw()
    return figure.axes[0], figure.axes[1]


def legend(axes):
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def tick_labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_plot_of_the_statistics():
    left, _ = drawn(report().plot())
    assert left.get_yscale() == "log"
    assert left.get_xlabel() == "step"
    assert left.get_ylabel() == "size of the gradient (L1 norm)"
    assert legend(left) == [
        "query",
        "feed-forward up",
        "feed-forward down",
        "threshold (tau) = 2",
    ]
    assert words(left) == [
        "grace period: nothing freezes",
        "stopped at step 5 of 10",
    ]
    [grace] = left.patches
    assert grace.get_bbox().intervalx.tolist() == [0, 2]
    query = left.lines[0]
    assert query.get_xdata().tolist() == [1, 2, 3, 4, 5]
    # The components 0 and 3: 8 / 1 and 8 / 4 at the first step.
    assert query.get_ydata()[0] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            {"monitor": "weight_change", "norm": "mean_l1"},
            "size of the change of the weights (mean L1 norm)",
        ),
        (
            {"monitor": "relative_change", "norm": "l1"},
            "size of the updates, relative to their mean so far",
        ),
        (
            {"monitor": "transfer", "norm": "l1"},
            "how much what was learned still helps (cosine)",
        ),
        ({"monitor": "gradient"}, "size of the gradient"),
        # A class of the user's own.
        ({"monitor": "SignalToNoise", "norm": "l1"}, "SignalToNoise"),
        ({}, "statistic"),
    ],
)
def test_the_y_axis_is_labelled_by_monitor_and_norm(settings, name):
    assert curves.statistic_name(settings) == name


def test_plot_of_the_freeze_steps():
    figure = report().plot()
    _, right = drawn(figure)
    kinds = ["query", "feed-forward up", "feed-forward down"]
    assert tick_labels(right.xaxis) == kinds
    assert tick_labels(right.yaxis) == ["layer_0", "layer_1"]
    [image] = right.collections
    np.testing.assert_array_equal(
        image.get_array().reshape(2, 3).filled(NAN),
        [[3, 4, NAN], [NAN, NAN, NAN]],
    )
    hatched = sorted(patch.get_xy() for patch in right.patches)
    assert hatched == [(0, 1), (2, 0)]
    assert legend(right) == ["still trained"]
    assert figure.axes[2].get_ylabel() == "step"


def test_a_single_freeze_step_is_the_only_one_on_the_colour_bar():
    figure = report([component("a/query", 3), component("b/query", 3)]).plot()
    drawn(figure)
    assert tick_labels(figure.axes[2].yaxis) == ["3"]


def test_plot_draws_each_tau_up_to_a_few():
    def heights(tau):
        left, _ = drawn(report(tau=tau).plot())
        flat = [line.get_ydata() for line in left.lines[3:-1]]
        return [y[0] for y in flat], legend(left)[-1]

    assert heights([3.0, 1.0, 3.0, 1.0]) == (
        [1.0, 3.0],
        "threshold (tau) = 1, 3",
    )
    five = [component(f"b_{i}/{r}") for i, r in enumerate(["query"] * 5)]
    left, _ = drawn(report(five, tau=[1.0, 2.0, 3.0, 4.0, 5.0]).plot())
    assert legend(left)[-1] == "threshold (tau) = 1 to 5"


def together(frozen_at=None, **settings):
    """Two components, at a cosine of 1.0 and 0.5 to -0.5 and -1.0."""
    start, fall = np.array([1.0, 0.5]), np.arange(4)[:, None] / 2
    return report(
        [component("b_0/query", frozen_at), component("b_1/query")],
        tau=[0.0, 0.0],
        statistic=start - fall,
        settings={"monitor": "transfer", "criterion": None, **settings},
    )


def test_a_threshold_of_zero_is_on_a_linear_axis():
    left, _ = drawn(together().plot())
    assert left.get_yscale() == "linear"
    query, mean, tau = left.lines[:3]
    assert query.get_ydata().tolist() == [0.75, 0.25, -0.25, -0.75]
    assert mean.get_ydata().tolist() == [0.75, 0.25, -0.25, -0.75]
    assert tau.get_ydata()[0] == 0.0
    assert legend(left)[1] == "mean of all, compared with tau"


def test_the_mean_decides_until_something_is_frozen():
    _, mean = curves.deciding_mean(together(frozen_at=2))
    assert mean.tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "settings", [{"monitor": "gradient"}, {"criterion": "Prescribed"}]
)
def test_elsewhere_no_mean_decides(settings):
    assert curves.deciding_mean(together(**settings)) is None


def test_ticks_are_plain_numbers():
    statistic = np.full((5, 4), 0.01)
    left, _ = drawn(report(tau=[0.9] * 4, statistic=statistic).plot())
    assert {"0.01", "0.1", "1"} <= {*tick_labels(left.yaxis)}


def test_a_threshold_far_from_all_leaves_room_for_the_curves():
    far, near = (drawn(report(tau=[tau] * 4).plot())[0] for tau in (1e-30, 0.1))
    assert far.get_ylim()[0] > 0.1
    assert len(near.lines) == len(far.lines) + 1
    assert "threshold (tau) = 1e-30" in legend(far)


def test_the_threshold_of_the_default_is_always_drawn():
    """It is 0, however far above all may be."""
    one = report(tau=[0.0] * 4, settings=SETTINGS | {"monitor": "transfer"})
    left, _ = drawn(one.plot())
    assert any(not np.any(line.get_ydata()) for line in left.lines)


def test_a_name_is_no_formula():
    names = ["a$_0", "a$_1"]
    one = report([component(f"{n}/query", 3, block=n) for n in names])
    _, right = drawn(one.plot())
    assert tick_labels(right.yaxis) == names


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_writes_the_kind_of_file_that_its_name_says(tmp_path, suffix):
    path = tmp_path / f"report.{suffix}"
    report().plot(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.filterwarnings("error")
@little_to_show
def test_runs_with_little_to_show_have_a_plot_and_a_summary(changes, width):
    width(80)
    one = report(**changes)
    drawn(one.plot())
    assert "components frozen" in one.summary()


def test_a_single_step_is_a_visible_point():
    left, _ = drawn(report(statistic=np.ones((1, 4))).plot())
    assert left.lines[0].get_marker() == "o"


def test_empty_plot_says_so():
    one = report(statistic=np.zeros((0, 4)), steps=0, stopped_step=None)
    left, _ = drawn(one.plot())
    assert "no step was measured" in words(left)


def test_plot_shows_towers_and_further_lines():
    paths = ["text/b_0/self/query", "text/b_0/cross/query", "image/b_0/a/query"]
    blocks = ["text/b_0", "text/b_0", "image/b_0"]
    one = report([component(p, 3, block=b) for p, b in zip(paths, blocks)])
    _, right = drawn(one.plot())
    expected = ["text", "b_0", "cross", "image", "b_0"]
    assert tick_labels(right.yaxis) == expected


def test_a_tall_heat_map_names_blocks_not_their_further_lines():
    paths = [
        f"decoder/b_{i}/{module}/query"
        for i in range(60)
        for module in ("self", "cross")
    ]
    paths = ["stem/a_0/self/query", *paths[:-1], "encoder/a_0/self/query"]
    blocks = ["/".join(path.split("/")[:2]) for path in paths]
    one = report([component(p, 3, block=b) for p, b in zip(paths, blocks)])
    _, right = drawn(one.plot())
    # 124 lines: every second one can be named, next to a tower none. So b_0
    # and b_59 are not, nor is a_0.
    decoder = [f"b_{i}" for i in range(1, 59)]
    expected = ["stem", "decoder", *decoder, "encoder"]
    assert tick_labels(right.yaxis) == expected


def test_plot_leaves_pyplot_alone(tmp_path, monkeypatch):
    # Importing it fails from here on, also where a module does.
    for module in ("picture", "curves", "charts"):
        name = f"keras_grades.report.{module}"
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr("matplotlib.pyplot", raising=False)
    report().plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").exists()


def test_the_figure_can_be_drawn_without_a_file():
    canvas = report().plot().canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    assert len(np.unique(pixels)) > 10


def test_the_band_shows_what_fell_below_tau():
    # One value of a long run, in one component, on one step.
    statistic = np.full((1000, 4), 5.0)
    statistic[700, 1] = 1.5
    left, _ = drawn(report(statistic=statistic, steps=1000).plot())
    lowest = [band.get_datalim(left.transData).y0 for band in left.collections]
    assert lowest == pytest.approx([5.0, 1.5, 5.0])


def test_summarize_takes_medians_and_keeps_the_extremes():
    statistic = np.array(
        [[1, 10, NAN], [3, 20, NAN], [2, 90, NAN], [NAN, 7, float("inf")]]
    )
    actual = curves.summarize(np.array([2, 4, 6, 8]), statistic, max_points=2)
    # Medians of steps 2 and 4: 2 and 15; of steps 6 and 8: 2 and 48.5.
    np.testing.assert_allclose(actual, [[4, 8.5, 1, 20], [8, 25.25, 2, 90]])


def test_long_runs_become_few_points():
    points = curves.summarize(np.arange(1, 1002), np.ones((1001, 2)))
    assert len(points) <= curves.MAX_POINTS
    assert points[-1, 0] == 1001


# --- What is optional --------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "method", "arguments"),
    [
        ("rich", "summary", []),
        ("matplotlib", "plot", []),
        ("bokeh", "to_html", ["report.html"]),
    ],
)
def test_without_the_package_the_error_says_what_to_install(
    package, method, arguments, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"{method}\(\)` needs {package}.*pip install {package}"
    with pytest.raises(ImportError, match=expected):
        getattr(report(), method)(*arguments)
