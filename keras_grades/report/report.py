"""What a run did: which matrix froze when, and what that was worth."""

import copy
import importlib
import json
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_grades.component import Component
from keras_grades.report.work import estimate_work_saved
from keras_grades.report.work import parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of `to_dict()`; raised when a reader of the old one would be misled.
FORMAT_VERSION = 1


class FreezeReport:
    """Data about one run: a dict, a JSON file, a text, a picture, a page.

    `callback.report` makes one. It is a snapshot: further training does not
    change it. A notebook shows its totals and its picture.

    Example:

    ```python
    report = callback.report
    print(report.summary())
    report.to_html("freezing.html")
    report.plot("freezing.png")
    report.to_json("freezing.json")
    ```

    Args:
        components: Sequence of n `Component`, with their `frozen_at`. Of
            their variables the report keeps path, shape and dtype.
        tau: Sequence of n floats, the threshold of each.
        trace: Dict of `"step"`, an integer array of shape `(m,)`, and
            `"statistic"`, a float array of shape `(m, n)`, NaN where nothing
            was measured.
        steps: Integer, the updates done.
        total_steps: Integer, the updates planned, or `None` if unknown.
            Defaults to `None`.
        stopped_step: Integer, the step at which training was stopped, or
            `None` if it was not. Defaults to `None`.
        settings: Dict, the arguments of the run. Defaults to `None`.
        timing: Dict, or `None` if nothing was timed: `"compilations"`, a list
            of dicts with `"step"`, `"seconds"`, 0 where nothing is compiled,
            `"frozen"`, `"step_seconds_before"` and `"step_seconds_after"`;
            `"seconds_saved_measured"`, by rebuilding; and
            `"why_not_rebuilt"`, a string, or `None` if the train step was.
            Defaults to `None`.

    Raises:
        ValueError: If `tau` or `trace` does not fit the components.
    """

    def __init__(
        self,
        *,
        components: Sequence[Component],
        tau: Sequence[float],
        trace: Mapping[str, np.ndarray],
        steps: int,
        total_steps: int | None = None,
        stopped_step: int | None = None,
        settings: Mapping[str, Any] | None = None,
        timing: Mapping[str, Any] | None = None,
    ) -> None:
        # Without the weights, which train on, and are the model's to keep.
        self.components = [copy.copy(c) for c in components]
        self.tau = [float(t) for t in tau]
        self.trace = {
            "step": np.array(trace["step"], "int32"),
            "statistic": np.array(trace["statistic"], "float32"),
        }
        self.steps = int(steps)
        self.total_steps = total_steps
        self.stopped_step = stopped_step
        self.settings = copy.deepcopy(settings or {})
        self.timing = copy.deepcopy(timing)
        self._check_shapes()

    def _check_shapes(self):
        n = len(self.components)
        if len(self.tau) != n:
            raise ValueError(
                "`tau` must have one float for each component. Received: "
                f"{len(self.tau)} floats for {n} components."
            )
        expected = (len(self.trace["step"]), n)
        actual = self.trace["statistic"].shape
        if actual != expected:
            raise ValueError(
                '`trace["statistic"]` must have a row for each step and a '
                f"column for each component, shape {expected}. Received "
                f"shape: {actual}."
            )

    @property
    def frozen(self):
        """List of the `Component` that are frozen."""
        return [c for c in self.components if c.frozen_at is not None]

    @property
    def work_saved(self):
        """Float. `estimate_work_saved()` of the steps that were run."""
        return estimate_work_saved(self.components, self.steps)

    @property
    def work_saved_of_schedule(self):
        """Float. The same of the planned steps, or `None` if unknown."""
        if self.total_steps is None:
            return None
        return estimate_work_saved(
            self.components, self.steps, self.total_steps
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict that `json.dumps` takes.

        Returns:
            Dict. NaN and infinity are `None`. `"version"` is the version of
            this format.
        """
        return _jsonable(
            {
                "version": FORMAT_VERSION,
                "settings": self.settings,
                "steps": self.steps,
                "total_steps": self.total_steps,
                "stopped_step": self.stopped_step,
                "components_frozen": len(self.frozen),
                "parameters": parameters(self.components),
                "parameters_frozen": parameters(self.frozen),
                "work_saved": self.work_saved,
                "work_saved_of_schedule": self.work_saved_of_schedule,
                "components": [
                    {
                        "name": c.name,
                        "role": c.role,
                        "block": c.block,
                        "shape": c.shape,
                        "size": c.size,
                        "tau": tau,
                        "frozen_at": c.frozen_at,
                    }
                    for c, tau in zip(self.components, self.tau)
                ],
                "trace": self.trace,
                "timing": self.timing,
            }
        )

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_dict()` to a file.

        Args:
            path: String or path-like, the file.
        """
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, allow_nan=False)

    def summary(self) -> str:
        """The report as text, as wide as the terminal.

        A cell is the step at which the component froze, `–` if it is still
        trained, and blank where the block has no such matrix. "Weight
        gradients not needed" is the share of them, in parameters times steps,
        that came after their components froze: the most that freezing can
        save. Stopping saved the steps that were left, at the time that one
        took before any rebuild; freezing, the time by which steps were
        shorter after rebuilds, whose own time stands beside it.

        Returns:
            String, coloured only if the standard output is a terminal.

        Raises:
            ImportError: If rich is not installed.
        """
        _require("rich", "summary")
        from keras_grades.report.table import render

        return render(self)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes a page that a browser opens without a network.

        It has the totals, what `plot()` draws, with values on hover, and a
        table of all components, which sorts.

        Args:
            path: String or path-like, the file.

        Raises:
            ImportError: If bokeh is not installed.
        """
        _require("bokeh", "to_html")
        from keras_grades.report.page import render

        with open(path, "w", encoding="utf-8") as file:
            file.write(render(self))

    def _repr_html_(self) -> str:
        """What a notebook shows. Needs neither bokeh nor rich."""
        from keras_grades.report.notebook import render

        return render(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draws the statistics over the steps, and the freeze steps.

        On the left, the statistic of each role, of the components that are
        still trained: the line is their median, the band reaches from the
        smallest to the largest. In a long run a point stands for several
        neighbouring steps, and the band holds whatever was measured in them.
        A thick line is the mean of all components, where that is compared
        with tau (`monitor="transfer"`). The axis is logarithmic if all is
        above zero.
        On the right, when each component froze.

        Args:
            path: String or path-like, the image file to write, or `None`.
                Defaults to `None`.

        Returns:
            `matplotlib.figure.Figure`, which pyplot does not know of.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        _require("matplotlib", "plot")
        from keras_grades.report.picture import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path)
        return figure


def _jsonable(value):
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _require(package, method):
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"`FreezeReport.{method}()` needs {package}, which is not "
            f"installed. Run `pip install {package}`."
        ) from error
