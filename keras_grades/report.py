"""What a run did: which matrix froze when, and what that was worth."""

import copy
import dataclasses
import importlib
import json
import math
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_grades.component import ROLES
from keras_grades.component import Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of `to_dict()`; raised when a reader of the old one would be misled.
FORMAT_VERSION = 1


class FreezeReport:
    """Plain data about one run, and four ways out of it.

    `callback.report` makes one. It is a snapshot: training on does not change
    it.

    Example:

    ```python
    report = callback.report
    print(report.summary())
    report.plot("freezing.png")
    report.to_json("freezing.json")
    ```

    Args:
        components: Sequence of n `Component`, with their `frozen_at`.
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
            of dicts with `"step"`, `"seconds"`, `"frozen"`,
            `"step_seconds_before"` and `"step_seconds_after"`;
            `"seconds_saved_estimated"` and `"seconds_saved_measured"`.
            Defaults to `None`.
        thaws: Sequence of n integers, how often each component was released
            after it froze, or `None` if that was not asked for. Defaults to
            `None`.

    Raises:
        ValueError: If `tau`, `thaws` or `trace` does not fit the components.
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
        thaws: Sequence[int] | None = None,
    ) -> None:
        self.components = [dataclasses.replace(c) for c in components]
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
        self.thaws = None if thaws is None else [int(t) for t in thaws]
        self._check_shapes()

    def _check_shapes(self):
        n = len(self.components)
        if len(self.tau) != n:
            raise ValueError(
                "`tau` must have one float for each component. Received: "
                f"{len(self.tau)} floats for {n} components."
            )
        if self.thaws is not None and len(self.thaws) != n:
            raise ValueError(
                "`thaws` must have one integer for each component. Received: "
                f"{len(self.thaws)} integers for {n} components."
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
                "thaws": self.thaws,
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
        trained, and blank where the block has no such matrix. What is said to
        be saved is explained at `estimate_work_saved()`.

        Returns:
            String, coloured only if the standard output is a terminal.

        Raises:
            ImportError: If rich is not installed.
        """
        _require("rich", "summary")
        from keras_grades.report_table import render

        return render(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draws the statistics over the steps, and the freeze steps.

        On the left, the statistic of each role, of the components that are
        still trained: the line is their median, the band reaches from the
        smallest to the largest. In a long run a point stands for several
        neighbouring steps, and the band holds whatever was measured in them.
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
        from keras_grades.report_plot import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path)
        return figure


def parameters(components):
    """The number of parameters of some components."""
    return sum(c.size for c in components)


def estimate_work_saved(components, steps, total_steps=None):
    """Estimates the share of weight-gradient work that freezing makes needless.

    The weight gradient of a dense matrix costs operations in proportion to
    its parameters times the tokens it sees. Here the tokens are taken to be
    as many for every component at every step, so that the work of one
    component at one step is its number of parameters. That is rough where
    they differ: between the towers of a model, or for stacks of experts, each
    of which sees some of the tokens only.

    A component does its work up to and including the step `frozen_at`. The
    share is that of all components at all steps, so the work of the forward
    pass, of the gradients of activations and of what is not a component does
    not count on either side.

    It is what would be saved if each component left the train step as soon as
    it froze, hence an upper bound: until the train step is rebuilt
    (`GradES(recompile=...)`) the gradient of a frozen component is still
    computed, and thrown away.

    Args:
        components: Sequence of `Component`.
        steps: Integer, the steps run.
        total_steps: Integer, the steps planned. Those that were not run count
            as saved. `None` compares with the steps run. Defaults to `None`.

    Returns:
        Float in [0, 1].
    """
    done = sum(c.size * _steps_trained(c, steps) for c in components)
    full = parameters(components) * max(steps, total_steps or 0)
    return 1 - done / full if full else 0.0


def _steps_trained(component, steps):
    if component.frozen_at is None:
        return steps
    return min(component.frozen_at, steps)


class Row(NamedTuple):
    """A line of the grid.

    Attributes:
        label: String, the block; or, if a block needs several lines, what
            tells a further one from the first.
        cells: Dict from role to `Component`.
        block: List of all `Component` of the block; empty on further lines.
    """

    label: str
    cells: dict[str, Component]
    block: list[Component]


class Tower(NamedTuple):
    """The blocks that make up one part of the model.

    Attributes:
        title: String, may be empty if there is only one.
        roles: List of the roles that occur.
        rows: List of `Row`.
    """

    title: str
    roles: list[str]
    rows: list[Row]


def to_grid(components):
    """Arranges components by tower, block and role.

    Blocks belong to one tower if their paths agree, numbers aside, in the
    first part in which not all paths agree.

    Args:
        components: Sequence of `Component`.

    Returns:
        List of `Tower`.
    """
    blocks = _group(components, lambda c: c.block)
    shared = _common_parents(blocks)
    kinds = _group(blocks, lambda b: _without_number(b.split("/")[len(shared)]))
    towers = []
    for kind, paths in kinds.items():
        parents = _common_parents(paths)
        rows = []
        for path in paths:
            label = "/".join(path.split("/")[len(parents) :])
            rows += _rows(label, path, blocks[path])
        used = {c.role for path in paths for c in blocks[path]}
        roles = [role for role in ROLES if role in used]
        if parents == shared and len(kinds) > 1:
            parents = [*shared, kind]
        towers.append(Tower("/".join(parents), roles, rows))
    return towers


def _rows(label, path, block):
    """The lines of a block: more than one if a role occurs more than once.

    A module stays on one line. The first line takes each that still fits, a
    further one is for a single module: a cross-attention, a second
    feed-forward network.
    """
    modules = _group(block, lambda c: c.name.rpartition("/")[0])
    first, others = {}, []
    for module in modules.values():
        for cells in _without_repeats(module):
            if first.keys() & cells.keys():
                others.append(Row(_distinction(cells, path), cells, []))
            else:
                first.update(cells)
    return [Row(label, first, block), *others]


def _without_repeats(module):
    """Splits a module into dicts from role to component."""
    lines = []
    for component in module:
        free = (line for line in lines if component.role not in line)
        line = next(free, None)
        if line is None:
            lines.append(line := {})
        line[component.role] = component
    return lines


def _distinction(cells, path):
    """What a further line shows: a module, or, if that is the block, layers."""
    names = [c.name.removeprefix(f"{path}/") for c in cells.values()]
    return ", ".join(_group(names, lambda n: n.rpartition("/")[0] or n))


def _group(items, key):
    """Dict from key to the list of its items, in order of appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _common_parents(paths):
    # Works on lists of parts just as on strings.
    return os.path.commonprefix([p.split("/")[:-1] for p in paths])


def _without_number(name):
    """`"decoder_layer_3"` -> `"decoder_layer"`."""
    return re.sub(r"_\d+(?=_|$)|\d+$", "", name)


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
            "installed. Run `pip install keras-grades[plot]`."
        ) from error
