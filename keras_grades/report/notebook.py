"""What a notebook shows of a report: HTML without JavaScript.

GitHub runs no scripts, and Jupyter none of a notebook that is not trusted.
"""

import base64
import html
import io

from keras_grades.report.totals import headline
from keras_grades.report.totals import totals

# Dots per inch: as wide as a cell of a notebook.
DPI = 90


def render(report):
    """The totals and, with matplotlib, the picture, as a piece of a page."""
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>"
        for label, value in totals(report)
    )
    title = html.escape(f"GradES: {headline(report)}")
    return f"<h4>{title}</h4><table>{rows}</table>{_picture(report)}"


def _picture(report):
    """An image, or nothing without matplotlib."""
    try:
        from PIL import Image  # Comes with matplotlib.

        from keras_grades.report.picture import draw
    except ImportError:
        return ""
    file = io.BytesIO()
    draw(report).savefig(file, format="png", dpi=DPI)
    # A third of the size; the colours of the legend stay what they are.
    image = Image.open(file).convert("RGB")
    few_colors = image.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    file = io.BytesIO()
    few_colors.save(file, "png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="freeze report" src="data:image/png;base64,{data}">'
