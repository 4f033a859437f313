"""The examples in the docstrings run, with a small model in their place."""

import inspect
import re
import textwrap

import keras
import pytest
import small

import keras_grades
from keras_grades import monitors
from keras_grades.report import FreezeReport

BACKEND = keras.backend.backend()
# What an example is of, and what must hold of the names that it leaves behind.
EXAMPLES = {
    keras_grades.GradES: lambda names: names["callback"].report.steps > 0,
    keras_grades.GradESMixin: lambda names: (
        float(names["model"].optimizer.own_iterations) > 0
    ),
    keras_grades.GradESOptimizer: lambda names: (
        int(names["optimizer"].own_iterations) > 0
    ),
    keras_grades.find_components: lambda names: len(names["components"]) == 6,
    FreezeReport: lambda names: (names["folder"] / "freezing.html").exists(),
    monitors.Monitor: lambda names: (
        type(names["callback"].policy.monitor) is names["MeanGradient"]
    ),
}
ONLY = {keras_grades.GradESOptimizer: "tensorflow"}


def examples(of):
    """The code in a docstring, or `""`."""
    doc = inspect.getdoc(of) or ""
    return "".join(re.findall(r"```python\n(.*?)```", doc, re.S))


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the examples take as given."""
    monkeypatch.chdir(tmp_path)
    model, loss = small.transformer(blocks=1), small.loss()
    model.compile(keras.optimizers.Adam(1e-3), loss)
    x, y = small.data(4)
    names = {
        "keras": keras,
        "keras_grades": keras_grades,
        "model": model,
        "inputs": model.inputs,
        "outputs": model.outputs,
        "loss": loss,
        "loss_fn": loss,
        "x": x,
        "y": y,
        "dataset": [(x[:4], y[:4]), (x[4:8], y[4:8])],
        "folder": tmp_path,
        "__name__": __name__,
    }
    if BACKEND == "tensorflow":
        import tensorflow

        names["tf"] = tensorflow
    return names


@pytest.mark.parametrize("of", EXAMPLES, ids=lambda of: of.__name__)
def test_it_runs(of, names):
    if ONLY.get(of, BACKEND) != BACKEND:
        pytest.skip(f"It is for {ONLY[of]}.")
    code = textwrap.dedent(examples(of))
    assert code
    if of is FreezeReport:
        names["callback"] = callback = keras_grades.GradES(verbose=0)
        x, y = names["x"], names["y"]
        names["model"].fit(x, y, 4, verbose=0, callbacks=[callback])
    exec(compile(code, f"docstring of {of.__name__}", "exec"), names)
    assert EXAMPLES[of](names)


def test_none_is_forgotten():
    public = [getattr(keras_grades, name) for name in keras_grades.__all__]
    public += [getattr(monitors, name) for name in monitors.__all__]
    public = [of for of in public if callable(of)]
    assert {of for of in public if examples(of)} <= set(EXAMPLES)
