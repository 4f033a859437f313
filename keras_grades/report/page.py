"""`FreezeReport.to_html()`: a page that explains a run. Needs bokeh.

Its JavaScript is in the file, so that it opens without a network.
"""

import math

import numpy as np
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource
from bokeh.models import CustomJSCompare
from bokeh.models import InlineStyleSheet
from bokeh.models.widgets import DataTable
from bokeh.models.widgets import NumberFormatter
from bokeh.models.widgets import ScientificFormatter
from bokeh.models.widgets import StringFormatter
from bokeh.models.widgets import TableColumn
from bokeh.resources import INLINE

from keras_grades.report import curves
from keras_grades.report.charts import AROUND
from keras_grades.report.charts import curves_chart
from keras_grades.report.charts import steps_chart
from keras_grades.report.grid import to_grid
from keras_grades.report.grid import to_lines
from keras_grades.report.grid import used_roles
from keras_grades.report.totals import headline
from keras_grades.report.totals import totals

# Heights in pixels: of a line of the heat map, of both charts, of the table.
LINE, LOWEST_CHART, HIGHEST_CURVES, HIGHEST_STEPS = 17, 500, 620, 1600
ROW, HIGHEST_TABLE = 27, 640

TEMPLATE = """
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  body { color: #222; font: 15px/1.5 Helvetica, Arial, sans-serif; }
  main { margin: 0 auto; max-width: 1500px; padding: 20px 28px 40px; }
  h1 { font-size: 24px; margin: 0 0 14px; }
  h2 { font-size: 18px; margin: 30px 0 4px; }
  p, th, summary { color: #666; margin: 0 0 10px; }
  th, td { padding: 1px 24px 1px 0; text-align: left; }
  th { font-weight: normal; }
  details { margin-top: 24px; }
  .charts { display: grid; gap: 12px; grid-template-columns:
    repeat(auto-fit, minmax(min(520px, 100%), 1fr)); }
  .charts > div { min-width: 0; }
</style>
{% endblock %}
{% block contents %}
{% macro pairs(rows) %}
<table>
{% for label, value in rows %}
  <tr><th>{{ label | e }}</th><td>{{ value | e }}</td></tr>
{% endfor %}
</table>
{% endmacro %}
<main>
  <h1>{{ title | e }}</h1>
  {{ pairs(totals) }}
  <h2>What was measured, and what froze</h2>
  <p>Point at a chart for its values. Click a name in the legend to hide it, a
  cell on the right to find it in the table.</p>
  <div class="charts">
    <div>{{ embed(roots.curves) }}</div>
    <div>{{ embed(roots.steps) }}</div>
  </div>
  <h2>Components</h2>
  <p>Click a header to sort.</p>
  {{ embed(roots.table) }}
  {% if settings %}
  <details>
    <summary>Arguments of the run</summary>
    {{ pairs(settings) }}
  </details>
  {% endif %}
</main>
{% endblock %}
"""
TABLE_STYLE = """
.slick-cell { font-size: 13px; }
.slick-cell.selected { background: #b9dcff; }
"""


def render(report):
    """The page as a string."""
    lines = to_lines(to_grid(report.components))
    source = ColumnDataSource(component_columns(report, lines))
    height = np.clip(AROUND + LINE * len(lines), LOWEST_CHART, HIGHEST_STEPS)
    given = [(k, v) for k, v in report.settings.items() if v is not None]
    return file_html(
        [
            curves_chart(report, min(int(height), HIGHEST_CURVES)),
            steps_chart(lines, source, int(height)),
            component_table(source),
        ],
        INLINE,
        title=f"GradES: {headline(report)}",
        template=TEMPLATE,
        template_variables={"totals": totals(report), "settings": given},
    )


def component_columns(report, lines):
    """What the heat map and the table show: an entry for each component."""
    roles = used_roles(lines)
    place = {
        id(component): (roles.index(role) + 0.5, y + 0.5)
        for y, (_, row) in enumerate(lines)
        if row
        for role, component in row.cells.items()
    }
    components = report.components
    places = np.array([place[id(c)] for c in components], "float64")
    frozen_at = [c.frozen_at for c in components]
    return {
        **dict(zip("xy", places.reshape(-1, 2).T)),
        "name": [c.name for c in components],
        "kind": [curves.ROLE_NAMES[c.role] for c in components],
        "block": [c.block for c in components],
        "shape": [" × ".join(map(str, c.shape)) for c in components],
        "parameters": [c.size for c in components],
        "tau": report.tau,
        "frozen_at": np.array([t or math.nan for t in frozen_at], "float64"),
        "state": [
            f"froze at step {t:,}" if t else curves.STILL_TRAINED
            for t in frozen_at
        ],
        "last": _last_measured(report.trace["statistic"]),
    }


def _last_measured(statistic):
    """The last finite value of each column, NaN if there is none."""
    values = [column[np.isfinite(column)] for column in statistic.T]
    return np.array([v[-1] if len(v) else math.nan for v in values], "float64")


def component_table(source):
    """A row for each component; a click on a header sorts."""
    # Of names, block_10 comes after block_2.
    text = {
        "formatter": StringFormatter(),
        "sorter": CustomJSCompare(
            code="return Math.sign(x.localeCompare(y, [], {numeric: true}))"
        ),
    }
    right = {"text_align": "right", "nan_format": "–"}
    number = {"formatter": NumberFormatter(format="0,0", **right)}
    measure = {"formatter": ScientificFormatter(precision=3, **right)}
    columns = [
        ("name", "name", 380, text),
        ("kind", "kind", 165, text),
        ("block", "block", 200, text),
        ("shape", "shape", 110, text),
        ("parameters", "parameters", 100, number),
        ("tau", "threshold (tau)", 110, measure),
        ("frozen_at", "frozen at step", 110, number),
        ("last", "last measured", 110, measure),
    ]
    return DataTable(
        name="table",
        source=source,
        columns=[
            TableColumn(field=field, title=title, width=width, **how)
            for field, title, width, how in columns
        ],
        index_position=None,
        reorderable=False,
        row_height=ROW,
        height=min(ROW * (len(source.data["name"]) + 1) + 8, HIGHEST_TABLE),
        sizing_mode="stretch_width",
        stylesheets=[InlineStyleSheet(css=TABLE_STYLE)],
    )
