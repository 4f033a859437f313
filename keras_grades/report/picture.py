"""`FreezeReport.plot()`: the statistics and the freeze steps. Needs matplotlib.

Figures are made without pyplot, so no display and no global state is needed.
"""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from matplotlib.ticker import MaxNLocator

from keras_grades.component import ROLES
from keras_grades.report.grid import to_grid

# The seven roles that meet in one model have Okabe and Ito's colours, which
# colour-blind readers can tell apart, less the yellow, hard to see on white.
# Those of the fused ones are as far from these as can be.
COLORS = {
    "query": "#0072b2",
    "key": "#e69f00",
    "value": "#009e73",
    "qkv": "#4000a0",
    "attention_output": "#d55e00",
    "ffn_up": "#56b4e9",
    "ffn_gate": "#cc79a7",
    "ffn_gate_up": "#602000",
    "ffn_down": "#000000",
}
GREY = "#555555"
LIGHT_GREY = "#eeeeee"
STILL_TRAINED = {
    "facecolor": LIGHT_GREY,
    "edgecolor": "#aaaaaa",
    "hatch": "/////",
    "linewidth": 0,
}
# More points than that only make a line ragged.
MAX_POINTS = 100
MAX_TAU_LINES = 4
MAX_BLOCK_LABELS = 90

# What the norm is of, and which norm.
_MONITORS = {
    "gradient": "the gradient",
    "gradient_change": "the change of the gradient",
    "weight_change": "the change of the weights",
}
_NORMS = {"l1": "L1 norm", "mean_l1": "mean L1 norm", "l2": "L2 norm"}
# How the rows of the heat map are labelled.
_TOWER = {"weight": "bold"}
_BLOCK = {"color": "black"}
_FURTHER = {"color": GREY}
# In points; leaves room for words above the axes.
_TITLE_PAD = 20
_THOUSANDS = FuncFormatter(lambda step, position: f"{step:,.0f}")


def draw(report):
    """The figure of `FreezeReport.plot()`."""
    towers = to_grid(report.components)
    lines = sum(len(tower.rows) + bool(tower.title) for tower in towers)
    height = min(max(5, 2 + 0.15 * lines), 16)
    figure = Figure(figsize=(13, height), dpi=120, layout="constrained")
    # Without it, `figure.canvas` could not draw.
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    draw_statistics(left.subplots(), report)
    draw_freeze_steps(right.subplots(), towers)
    return figure


def draw_statistics(axes, report):
    """The statistic of each role over the steps."""
    axes.set_title("Components still trained: median and range", pad=_TITLE_PAD)
    axes.set(
        xlabel="step",
        ylabel=statistic_name(report.settings),
        yscale="log",
        xlim=(0, 1.02 * max(report.steps, 1)),
    )
    axes.xaxis.set_major_locator(_step_locator(8))
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.spines[["top", "right"]].set_visible(False)
    handles = []
    for role in ROLES:
        of = [c.role == role for c in report.components]
        if any(of):
            handles.append(_draw_role(axes, role, report.trace, of))
    handles += _draw_tau(axes, report.tau)
    _draw_grace(axes, report.settings.get("grace_steps") or 0, report.steps)
    _draw_stop(axes, report)
    if not len(report.trace["step"]):
        _note(axes, 0.5, "center", "no step was measured", y=0.5)
    _legend(axes, handles, ncols=4)


def statistic_name(settings):
    """The label of the y axis; a monitor of your own is called by its name."""
    monitor, norm = settings.get("monitor"), settings.get("norm")
    if monitor == "relative_change":
        return "size of the updates, relative to their mean so far"
    if monitor not in _MONITORS:
        return monitor or "statistic"
    return f"{_NORMS.get(norm, 'norm')} of {_MONITORS[monitor]}"


def summarize(step, statistic, max_points=MAX_POINTS):
    """Reduces the statistics of several components to three curves.

    Args:
        step: Integer array of shape `(m,)`.
        statistic: Float array of shape `(m, n)`. What a logarithm cannot show
            (NaN, infinity, 0) does not count.
        max_points: Integer. So many points at most: each stands for some
            neighbouring steps. Defaults to `100`.

    Returns:
        Float array of shape `(points, 4)`: the last of the steps; the median
        over the components of the median over the steps; and the smallest and
        the largest of all values, so that what fell below tau is in it.
    """
    valid = np.isfinite(statistic) & (statistic > 0)
    values = np.ma.masked_array(statistic, ~valid)
    size = math.ceil(len(step) / max_points) or 1
    points = []
    for start in range(0, len(step), size):
        some = values[start : start + size]
        if some.count():
            last = step[start : start + size][-1]
            median = np.ma.median(np.ma.median(some, axis=0))
            points.append((last, median, some.min(), some.max()))
    return np.array(points, "float64").reshape(-1, 4)


def freeze_steps(row, roles):
    """The cells of a row: a step, 0 if still trained, NaN if absent."""
    cells = [row.cells.get(role) for role in roles]
    return [math.nan if c is None else c.frozen_at or 0 for c in cells]


def _draw_role(axes, role, trace, of):
    step, median, low, high = summarize(
        trace["step"], trace["statistic"][:, of]
    ).T
    color = COLORS[role]
    axes.fill_between(step, low, high, color=color, alpha=0.09, linewidth=0)
    (line,) = axes.plot(step, median, color=color, linewidth=1.8, label=role)
    if len(step) == 1:
        # A line through one point cannot be seen.
        line.set_marker("o")
    return line


def _draw_tau(axes, tau):
    """Dashed lines, and what the legend says of them."""
    distinct = sorted(set(tau))
    style = {"color": GREY, "linewidth": 1.5, "linestyle": (0, (4, 2))}
    if not distinct:
        return []
    if len(distinct) <= MAX_TAU_LINES:
        values = ", ".join(f"{t:.3g}" for t in distinct)
        shown = distinct
    else:
        values = f"{distinct[0]:.3g} to {distinct[-1]:.3g}"
        shown = [distinct[0], distinct[-1]]
    for value in shown:
        axes.axhline(value, **style)
    return [Line2D([], [], label=f"tau = {values}", **style)]


def _draw_grace(axes, grace_steps, steps):
    if grace_steps > 0:
        axes.axvspan(0, min(grace_steps, steps), color=LIGHT_GREY, zorder=0)
        _note(axes, 0, "left", "grace period")


def _draw_stop(axes, report):
    if report.stopped_step is not None:
        axes.axvline(report.stopped_step, color=GREY, linewidth=1.5)
        of = f" of {report.total_steps:,}" if report.total_steps else ""
        text = f"stopped at step {report.stopped_step:,}{of}"
        _note(axes, report.stopped_step, "right", text)


def _step_locator(ticks):
    return MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10])


def _note(axes, step, side, text, y=1.015):
    """Words at a step; above the axes, where no line is."""
    axes.text(
        *(step, y, text),
        transform=axes.get_xaxis_transform(),
        ha=side,
        color=GREY,
        fontsize="small",
    )


def _legend(axes, handles, ncols=1):
    """Puts the legend below the axes, whatever their height."""
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=ncols, frameon=False
    )


def draw_freeze_steps(axes, towers):
    """The heat map: blocks by roles, tower below tower."""
    used = {role for tower in towers for role in tower.roles}
    roles = [role for role in ROLES if role in used]
    cells, labels = [], []
    for tower in towers:
        if tower.title:
            cells.append([math.nan] * len(roles))
            labels.append((tower.title, _TOWER))
        for row in tower.rows:
            cells.append(freeze_steps(row, roles))
            labels.append((row.label, _BLOCK if row.block else _FURTHER))
    cells = np.array(cells, "float64").reshape(len(cells), len(roles))
    axes.set_title("Freeze step of each component", pad=_TITLE_PAD)
    axes.set(xlim=(0, len(roles) or 1), ylim=(len(cells) or 1, 0))
    axes.set_xticks(
        np.arange(len(roles)) + 0.5,
        roles,
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    _label_rows(axes, labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _draw_frozen(axes, cells)
    _draw_still_trained(axes, cells)
    for x in range(1, len(roles)):
        axes.axvline(x, color="white", linewidth=1)
    for y in range(1, len(cells)):
        axes.axhline(y, color="white", linewidth=1)


def _label_rows(axes, labels):
    """Names the rows; towers and some blocks if there are too many to read."""
    apart = math.ceil(len(labels) / MAX_BLOCK_LABELS)
    shown = []
    for i, (_, style) in enumerate(labels):
        fits = not shown or i - shown[-1] >= apart
        if style is _TOWER:
            if not fits and labels[shown[-1]][1] is not _TOWER:
                shown.pop()
            shown.append(i)
        elif fits and (apart == 1 or style is _BLOCK):
            shown.append(i)
    axes.set_yticks([i + 0.5 for i in shown], [labels[i][0] for i in shown])
    for i, text in zip(shown, axes.get_yticklabels()):
        text.set(fontsize="x-small", **labels[i][1])


def _draw_frozen(axes, cells):
    frozen = cells[cells > 0]
    if len(frozen):
        first, last = frozen.min(), frozen.max()
        image = axes.pcolormesh(
            np.where(cells > 0, cells, np.nan),
            cmap="viridis",
            norm=Normalize(first, last),
        )
        axes.figure.colorbar(
            image,
            ax=axes,
            label="step",
            format=_THOUSANDS,
            ticks=[first] if first == last else _step_locator(6),
            aspect=max(30, 1.2 * len(cells)),
        ).outline.set_visible(False)


def _draw_still_trained(axes, cells):
    places = np.argwhere(cells == 0)
    for y, x in places:
        axes.add_patch(Rectangle((x, y), 1, 1, **STILL_TRAINED))
    if len(places):
        _legend(axes, [Patch(label="still trained", **STILL_TRAINED)])
