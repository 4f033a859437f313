"""The two charts of `FreezeReport.to_html()`. Needs bokeh."""

import math

import numpy as np
from bokeh.models import AdaptiveTicker
from bokeh.models import BasicTickFormatter
from bokeh.models import BooleanFilter
from bokeh.models import CDSView
from bokeh.models import ColumnDataSource
from bokeh.models import CrosshairTool
from bokeh.models import FixedTicker
from bokeh.models import HoverTool
from bokeh.models import LinearColorMapper
from bokeh.models import LogTickFormatter
from bokeh.models import NumeralTickFormatter
from bokeh.models import Range1d
from bokeh.models import TapTool
from bokeh.models.annotations import ColorBar
from bokeh.models.annotations import Legend
from bokeh.plotting import figure

from keras_grades.report import curves
from keras_grades.report.curves import COLORS
from keras_grades.report.curves import GREY
from keras_grades.report.curves import ROLE_NAMES
from keras_grades.report.grid import readable
from keras_grades.report.grid import used_roles
from keras_grades.report.totals import ending
from keras_grades.report.totals import is_early

# Of the heat map, in pixels: what is around the lines, and a label of a line.
AROUND, LABEL = 170, 14
MAX_LABEL = 28
ABSENT = "–"

_CELL = [
    ("name", "@name"),
    ("kind", "@kind"),
    ("state", "@state"),
    ("shape", "@shape"),
    ("parameters", "@parameters{0,0}"),
    ("threshold (tau)", "@tau{%.3g}"),
    ("last measured", "@last{%.3g}"),
]
_LEGEND = {
    "location": "top_left",
    "border_line_alpha": 0,
    "label_text_font_size": "12px",
    "spacing": 12,
    "label_height": 12,
    "glyph_height": 14,
    "padding": 4,
    "margin": 4,
}


def curves_chart(report, height):
    """The statistic of each role over the steps."""
    end = 1.02 * max(report.steps, 1)
    title = curves.CURVES_TITLE
    if not len(report.trace["step"]):
        title = curves.NOT_MEASURED.capitalize()
    chart = _figure(
        title,
        name="curves",
        height=height,
        x_range=(0, end),
        y_axis_type="log" if curves.is_logarithmic(report) else "linear",
        x_axis_label="step",
        y_axis_label=curves.statistic_name(report.settings),
        tools="box_zoom,pan,wheel_zoom,reset,save",
        active_drag="box_zoom",
    )
    _show_steps(chart.xaxis)
    by_role, mean = curves.by_role(report), curves.deciding_mean(report)
    items = [(ROLE_NAMES[c.role], _draw_role(chart, c)) for c in by_role]
    if mean is not None:
        line = chart.line(*mean, color=GREY, line_width=4)
        items.append((curves.DECIDING_MEAN, [line]))
    tau, label = curves.thresholds(report.tau, by_role)
    if report.tau:
        items.append((label, _draw_tau(chart, tau, end)))
    items += _draw_times(chart, report)
    chart.add_layout(
        Legend(items=items, ncols=3, click_policy="hide", **_LEGEND), "below"
    )
    if curves.is_logarithmic(report):
        bands = [values for c in by_role for values in (c.low, c.high)]
        _set_ticks(chart, np.concatenate([tau, *bands]))
    if not report.tau:
        # Without any data bokeh finds no range, and complains.
        chart.y_range = Range1d(0, 1)
    _show_values(chart, by_role, mean)
    return chart


def _set_ticks(chart, values):
    """At 1, 2 and 5 where bokeh has those of a linear axis, or no others."""
    chart.yaxis.formatter = LogTickFormatter(min_exponent=4)
    low, high = np.log10([values.min(), values.max()])
    if 0.7 < high - low < 2.5:
        exponents = range(math.floor(low) - 1, math.ceil(high) + 1)
        ticks = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
        chart.yaxis.ticker = FixedTicker(ticks=ticks)
        chart.yaxis.formatter = BasicTickFormatter()


def _figure(title, **options):
    chart = figure(
        title=title,
        sizing_mode="stretch_width",
        toolbar_location="above",
        outline_line_alpha=0,
        **options,
    )
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    chart.title.text_font_size = "15px"
    chart.axis.axis_label_text_font_style = "normal"
    return chart


def _draw_role(chart, curve):
    step, color = curve.step, COLORS[curve.role]
    band = chart.varea(step, curve.low, curve.high, color=color, alpha=0.09)
    # A line through one point cannot be seen.
    draw = chart.line if len(step) != 1 else chart.scatter
    return [draw(step, curve.median, color=color, line_width=2), band]


def _draw_tau(chart, tau, end):
    """Dashed lines, or one for the legend alone."""
    style = {"color": GREY, "line_width": 1.5, "line_dash": [8, 4]}
    lines = [chart.line([0, end], [v, v], **style) for v in tau]
    return lines or [chart.line([], [], **style)]


def _draw_times(chart, report):
    """The grace period and the stop, and what the legend says of them."""
    items = []
    grace = min(report.settings.get("grace_steps") or 0, report.steps)
    if grace > 0:
        style = {"color": curves.LIGHT_GREY, "level": "underlay"}
        items.append((curves.GRACE, [chart.vstrip([0], [grace], **style)]))
    if is_early(report):
        stop = chart.vspan([report.stopped_step], color=GREY, line_width=1.5)
        items.append((ending(report), [stop]))
    return items


def _show_values(chart, by_role, mean):
    """On hover, all values of a step together."""
    heights, texts = {}, {}
    for curve in by_role:
        for step, *values in zip(*curve[1:]):
            text = "{:.3g} ({:.3g} to {:.3g})".format(*values)
            texts.setdefault(step, {})[curve.role] = text
            heights[step] = values[0]
    shown = {c.role: (ROLE_NAMES[c.role], COLORS[c.role]) for c in by_role}
    if mean is not None:
        shown["mean"] = (curves.DECIDING_MEAN, GREY)
        for step, value in zip(*mean):
            texts[step]["mean"] = f"{value:.3g}"
    steps = sorted(texts)
    columns = {
        "step": steps,
        "height": [heights[step] for step in steps],
        **{key: [texts[s].get(key, ABSENT) for s in steps] for key in shown},
    }
    # Found by the pointer, not seen.
    line = chart.line(
        "step", "height", source=ColumnDataSource(columns), alpha=0
    )
    rows = [
        f'<div><span style="color: {color}">■</span> {name}: @{key}</div>'
        for key, (name, color) in shown.items()
    ]
    chart.add_tools(
        HoverTool(
            renderers=[line],
            tooltips="<b>step @step{0,0}</b>" + "".join(rows),
            mode="vline",
            point_policy="follow_mouse",
        ),
        CrosshairTool(dimensions="height", line_color=GREY, line_alpha=0.5),
    )


def steps_chart(lines, source, height):
    """The heat map: blocks by roles, tower below tower."""
    roles = used_roles(lines)
    chart = _figure(
        curves.STEPS_TITLE,
        name="steps",
        height=height,
        x_range=(0, len(roles) or 1),
        y_range=(len(lines) or 1, 0),
        tools="save",
    )
    _name(chart.xaxis, {i: ROLE_NAMES[role] for i, role in enumerate(roles)})
    chart.xaxis.major_label_orientation = 0.6
    shown = readable(lines, (height - AROUND) // LABEL)
    _name(chart.yaxis, {i: _short(lines[i][0]) for i in shown if lines[i][1]})
    chart.grid.visible = False
    _draw_towers(chart, lines)
    cells = [*_draw_frozen(chart, source), *_draw_still_trained(chart, source)]
    chart.add_tools(
        HoverTool(
            renderers=cells,
            tooltips=_CELL,
            formatters={"@tau": "printf", "@last": "printf"},
        ),
        TapTool(renderers=cells),
    )
    return chart


def _show_steps(axis):
    """Labels an axis, or a colour bar, with whole numbers."""
    axis.ticker = AdaptiveTicker(mantissas=[1, 2, 5], min_interval=1)
    axis.formatter = NumeralTickFormatter(format="0,0")


def _name(axis, names):
    """Puts names in the middle of the lines or columns of the heat map."""
    axis.ticker = FixedTicker(ticks=[i + 0.5 for i in names])
    axis.major_label_overrides = {i + 0.5: name for i, name in names.items()}
    axis.major_label_text_font_size = "12px"
    axis.major_tick_line_alpha = axis.axis_line_alpha = 0


def _short(label):
    """The end of a long label: that tells blocks apart."""
    return label if len(label) <= MAX_LABEL else "…" + label[1 - MAX_LABEL :]


def _draw_towers(chart, lines):
    titles = {i: label for i, (label, row) in enumerate(lines) if row is None}
    chart.text(
        *([0] * len(titles), [i + 0.5 for i in titles], list(titles.values())),
        text_baseline="middle",
        text_font_size="12px",
        text_font_style="bold",
    )


def _draw_frozen(chart, source):
    frozen = np.isfinite(source.data["frozen_at"])
    if not frozen.any():
        return []
    steps = source.data["frozen_at"][frozen]
    mapper = LinearColorMapper("Viridis256", low=steps.min(), high=steps.max())
    bar = ColorBar(color_mapper=mapper, width=14)
    _show_steps(bar)
    if steps.min() == steps.max():
        # Without a range there is no scale.
        mapper.high = mapper.low + 1
        bar.ticker = FixedTicker(ticks=[mapper.low])
    chart.add_layout(bar, "right")
    color = {"field": "frozen_at", "transform": mapper}
    return [_draw_cells(chart, source, frozen, fill_color=color)]


def _draw_still_trained(chart, source):
    trained = np.isnan(source.data["frozen_at"])
    if not trained.any():
        return []
    cells = _draw_cells(
        *(chart, source, trained),
        fill_color=curves.LIGHT_GREY,
        hatch_pattern="right_diagonal_line",
        hatch_color="#aaaaaa",
        hatch_scale=8,
    )
    items = [(curves.STILL_TRAINED, [cells])]
    chart.add_layout(Legend(items=items, **_LEGEND), "above")
    return [cells]


def _draw_cells(chart, source, which, **style):
    is_lined = len(set(source.data["y"])) <= curves.MAX_LINED_ROWS
    return chart.rect(
        *("x", "y", 1, 1),
        source=source,
        view=CDSView(filter=BooleanFilter(which.tolist())),
        line_color="white" if is_lined else None,
        nonselection_fill_alpha=0.25,
        **style,
    )
