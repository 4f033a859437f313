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
from matplotlib.ticker import LogFormatter
from matplotlib.ticker import MaxNLocator

from keras_grades.report import curves
from keras_grades.report.curves import COLORS
from keras_grades.report.curves import GREY
from keras_grades.report.curves import ROLE_NAMES
from keras_grades.report.grid import readable
from keras_grades.report.grid import to_grid
from keras_grades.report.grid import to_lines
from keras_grades.report.grid import used_roles
from keras_grades.report.totals import ending
from keras_grades.report.totals import is_early

_HATCHED = {
    "facecolor": curves.LIGHT_GREY,
    "edgecolor": "#aaaaaa",
    "hatch": "/////",
    "linewidth": 0,
}
MAX_BLOCK_LABELS = 90

# How the rows of the heat map are labelled.
_TOWER = {"weight": "bold"}
_BLOCK = {"color": "black"}
_FURTHER = {"color": GREY}
# In points; leaves room for words above the axes.
_TITLE_PAD = 20
_THOUSANDS = FuncFormatter(lambda step, position: f"{step:,.0f}")


class _PlainNumbers(LogFormatter):
    """`0.6` in place of a power of ten, for the ticks that have a label."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw(report):
    """The figure of `FreezeReport.plot()`."""
    lines = to_lines(to_grid(report.components))
    height = min(max(5, 2 + 0.15 * len(lines)), 16)
    figure = Figure(figsize=(13, height), dpi=120, layout="constrained")
    # Without it, `figure.canvas` could not draw.
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    draw_statistics(left.subplots(), report)
    draw_freeze_steps(right.subplots(), lines)
    return figure


def draw_statistics(axes, report):
    """The statistic of each role over the steps."""
    axes.set_title(curves.CURVES_TITLE, pad=_TITLE_PAD)
    axes.set(
        xlabel="step",
        ylabel=curves.statistic_name(report.settings),
        xlim=(0, 1.02 * max(report.steps, 1)),
    )
    if curves.is_logarithmic(report):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_PlainNumbers())
        axes.yaxis.set_minor_formatter(_PlainNumbers())
    axes.xaxis.set_major_locator(_step_locator(8))
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.spines[["top", "right"]].set_visible(False)
    by_role = curves.by_role(report)
    handles = [_draw_role(axes, curve) for curve in by_role]
    handles += _draw_mean(axes, curves.deciding_mean(report))
    handles += _draw_tau(axes, report.tau, by_role)
    _draw_grace(axes, report.settings.get("grace_steps") or 0, report.steps)
    if is_early(report):
        axes.axvline(report.stopped_step, color=GREY, linewidth=1.5)
        _note(axes, report.stopped_step, "right", ending(report))
    if not len(report.trace["step"]):
        _note(axes, 0.5, "center", curves.NOT_MEASURED, y=0.5)
    _legend(axes, handles, ncols=3)


def _draw_role(axes, curve):
    step, color = curve.step, COLORS[curve.role]
    axes.fill_between(
        step, curve.low, curve.high, color=color, alpha=0.09, linewidth=0
    )
    (line,) = axes.plot(
        *(step, curve.median),
        color=color,
        linewidth=1.8,
        label=ROLE_NAMES[curve.role],
    )
    if len(step) == 1:
        # A line through one point cannot be seen.
        line.set_marker("o")
    return line


def _draw_mean(axes, mean):
    if mean is None:
        return []
    style = {"color": GREY, "linewidth": 3, "label": curves.DECIDING_MEAN}
    return axes.plot(*mean, **style)


def _draw_tau(axes, tau, bands):
    """Dashed lines, and what the legend says of them."""
    if not tau:
        return []
    values, label = curves.thresholds(tau, bands)
    style = {"color": GREY, "linewidth": 1.5, "linestyle": (0, (4, 2))}
    for value in values:
        axes.axhline(value, **style)
    return [Line2D([], [], label=label, **style)]


def _draw_grace(axes, grace_steps, steps):
    if grace_steps > 0:
        end = min(grace_steps, steps)
        axes.axvspan(0, end, color=curves.LIGHT_GREY, zorder=0)
        _note(axes, 0, "left", curves.GRACE)


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


def draw_freeze_steps(axes, lines):
    """The heat map: blocks by roles, tower below tower."""
    roles = used_roles(lines)
    cells = [_freeze_steps(row, roles) for _, row in lines]
    cells = np.array(cells, "float64").reshape(len(cells), len(roles))
    axes.set_title(curves.STEPS_TITLE, pad=_TITLE_PAD)
    axes.set(xlim=(0, len(roles) or 1), ylim=(len(cells) or 1, 0))
    axes.set_xticks(
        np.arange(len(roles)) + 0.5,
        [ROLE_NAMES[role] for role in roles],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    _label_rows(axes, lines)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _draw_frozen(axes, cells)
    _draw_still_trained(axes, cells)
    for x in range(1, len(roles)):
        axes.axvline(x, color="white", linewidth=1)
    if len(cells) <= curves.MAX_LINED_ROWS:
        for y in range(1, len(cells)):
            axes.axhline(y, color="white", linewidth=1)


def _freeze_steps(row, roles):
    """The cells of a line: a step, 0 if still trained, NaN if absent."""
    cells = [row.cells.get(role) if row else None for role in roles]
    return [math.nan if c is None else c.frozen_at or 0 for c in cells]


def _label_rows(axes, lines):
    """Names the rows, or those of them that can be read."""
    shown = readable(lines, MAX_BLOCK_LABELS)
    axes.set_yticks([i + 0.5 for i in shown], [lines[i][0] for i in shown])
    for i, text in zip(shown, axes.get_yticklabels()):
        row = lines[i][1]
        style = _TOWER if row is None else _BLOCK if row.block else _FURTHER
        # A name is not a formula, whatever it has between dollar signs.
        text.set(fontsize="x-small", parse_math=False, **style)


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
        axes.add_patch(Rectangle((x, y), 1, 1, **_HATCHED))
    if len(places):
        _legend(axes, [Patch(label=curves.STILL_TRAINED, **_HATCHED)])
