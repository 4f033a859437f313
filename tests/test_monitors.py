"""A monitor of the user's own measures, freezes, is saved and reported."""

import functools
import re
import textwrap

import keras
import numpy as np
import pytest
import reference
import small

import keras_grades
from keras_grades import GradES
from keras_grades import monitors

STEPS, SAVED = 12, 8
TINY = 1e-30


def example():
    """The class in the docstring of `Monitor`, as one would copy it."""
    code = re.search("```python\n(.*?)```", monitors.Monitor.__doc__, re.S)
    names = {"keras": keras, "keras_grades": keras_grades}
    exec(textwrap.dedent(code.group(1)), names)
    return names["MeanGradient"]


MeanGradient = example()


def compiled():
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.SGD(0.05), small.loss())
    return model


def fit(model, grades, *callbacks, steps=STEPS, **arguments):
    x, y = small.data(steps)
    model.fit(
        x,
        y,
        4,
        shuffle=False,
        verbose=0,
        callbacks=[grades, *callbacks],
        **arguments,
    )
    return grades


@functools.cache
def by_hand():
    """The norm of the running mean of each kernel's gradient, step by step."""
    model, optimizer = small.transformer(blocks=1), keras.optimizers.SGD(0.05)
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    kernels = [c.variables[0] for c in keras_grades.find_components(model)]
    means = [np.zeros(k.shape) for k in kernels]
    rows, loss = [], small.loss()
    for x, y in small.batches(*small.data(STEPS)):
        grads = reference.gradients(model, variables, x, y, loss)
        of = {id(v): reference.numpy(g) for v, g in zip(variables, grads)}
        means = [0.9 * m + 0.1 * of[id(k)] for m, k in zip(means, kernels)]
        rows.append([np.sqrt((m**2).sum()) for m in means])
        reference.apply(optimizer, grads, variables)
    return np.array(rows)


def test_it_measures_what_it_says():
    grades = fit(
        compiled(), GradES(TINY, alpha=0, monitor=MeanGradient(), verbose=0)
    )
    np.testing.assert_allclose(
        grades.trace["statistic"], by_hand(), rtol=1e-4, atol=1e-6
    )
    assert grades.report.to_dict()["settings"]["monitor"] == "MeanGradient"
    assert "MeanGradient" in grades.report.plot().axes[0].get_ylabel()


def test_it_freezes():
    """The first that fall below tau do so where they do by hand."""
    expected, grace = by_hand(), 5
    tau = float(np.sort(expected[grace - 1])[1:3].mean())
    first = expected[grace - 1] < tau
    assert first.sum() == 2
    grades = fit(
        compiled(),
        GradES(
            tau,
            alpha=grace,
            monitor=MeanGradient(),
            recompile="never",
            verbose=0,
        ),
    )
    frozen_at = np.array([c.frozen_at or 0 for c in grades.components])
    np.testing.assert_array_equal(frozen_at == grace, first)


def test_it_is_saved_and_resumed(tmp_path):
    def grades():
        return GradES(TINY, alpha=0, monitor=MeanGradient(), verbose=0)

    whole = fit(compiled(), grades(), steps=STEPS // 3, epochs=3)
    model = compiled()
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, grades(), save, steps=STEPS // 3, epochs=2)
    loaded = keras.saving.load_model(tmp_path / "2.keras")
    if keras.backend.backend() == "torch":
        loaded.jit_compile = False
    resumed = fit(loaded, grades(), steps=STEPS // 3, epochs=3, initial_epoch=2)
    np.testing.assert_array_equal(
        resumed.trace["step"], np.arange(SAVED, STEPS) + 1
    )
    np.testing.assert_allclose(
        resumed.trace["statistic"],
        whole.trace["statistic"][SAVED:],
        rtol=1e-4,
        atol=1e-7,
    )


class Own(monitors.Monitor):
    """One that returns what a test gives it."""

    def __init__(self, declared, result):
        self.declared = declared
        self.result = result

    def init(self, components):
        return self.declared

    def after(self, state, carry, variables):
        return self.result


ONES = np.ones(6, "float32")
SPEC = monitors.StateSpec((2,))


@pytest.mark.parametrize(
    ("monitor", "error", "says"),
    [
        ("nonsense", ValueError, "monitor='nonsense'"),
        (MeanGradient, TypeError, "an instance of a subclass"),
        (Own({}, (ONES[:5], {})), ValueError, r"shape \(6,\).*\(5,\)"),
        (Own({}, (1.0, {})), ValueError, r"shape \(6,\).*1.0"),
        (Own({}, ONES), TypeError, "two things"),
        (Own({"a": SPEC}, (ONES, {})), ValueError, r"\['a'\].*\[\]"),
        (
            Own({"a": SPEC}, (ONES, {"a": ONES})),
            ValueError,
            r"'a'.*\(2,\).*\(6,\)",
        ),
        (
            Own({"a": monitors.StateSpec(None)}, (ONES, {"a": [()] * 6})),
            ValueError,
            "a tensor of its shape for each variable",
        ),
        (Own({"a": (2,)}, (ONES, {})), TypeError, "`StateSpec`"),
        (Own({"below": SPEC}, (ONES, {})), ValueError, "other names.*below"),
    ],
)
def test_what_is_wrong_is_said_before_training(monitor, error, says):
    model = compiled()
    optimizer, before = model.optimizer, small.weights(model)
    with pytest.raises(error, match=re.compile(says, re.S)):
        fit(model, GradES(1.0, alpha=0, monitor=monitor, verbose=0))
    assert model.optimizer is optimizer
    for a, b in zip(small.weights(model), before):
        np.testing.assert_array_equal(a, b)


def test_it_needs_a_tau():
    with pytest.raises(ValueError, match="MeanGradient.*needs a `tau`"):
        GradES(monitor=MeanGradient())


HALF = {
    # The statistic has their dtype.
    "statistic": (lambda sgd: sgd, {"monitor": MeanGradient()}),
    # Unscaled, the gradients have another one.
    "gradients": (keras.optimizers.LossScaleOptimizer, {}),
}


@pytest.mark.everywhere
@pytest.mark.parametrize("what", HALF)
def test_weights_in_half_precision(what):
    wrap, arguments = HALF[what]
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = small.transformer(blocks=1)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(wrap(keras.optimizers.SGD(0.05)), small.loss())
    assert model.trainable_variables[0].dtype == "bfloat16"
    grades = GradES(1e30, **arguments, alpha=2, verbose=0)
    fit(model, grades)
    assert {c.frozen_at for c in grades.components} == {2}
