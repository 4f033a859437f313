"""How fast components move away from where they began."""

import keras
import numpy as np
import pytest
import reference
import small
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_grades import GradES
from keras_grades.component import Component
from keras_grades.displacement import ANCHORS
from keras_grades.displacement import SAMPLE
from keras_grades.displacement import Displacement
from keras_grades.displacement import growth


def powers(distances):
    """Steps through `growth`, with rows of distances; the powers."""
    distances = np.array(distances, "float32")
    anchors = np.zeros((ANCHORS, distances.shape[1]), "float32")
    found = []
    for step, row in enumerate(distances, start=1):
        power, anchors = growth(
            keras.ops.convert_to_tensor(row),
            keras.ops.convert_to_tensor(anchors),
            step,
        )
        found.append(keras.ops.convert_to_numpy(power))
    return np.array(found)


def test_finds_the_power_whatever_the_scale():
    steps = np.arange(1, 300)[:, None]
    exponents = np.array([1.0, 0.5, 0.2, 0.0])
    scales = np.array([1e-6, 1.0, 1e6, 3.0])
    found = powers(scales * steps**exponents)
    assert np.isnan(found[:7]).all()
    np.testing.assert_allclose(
        found[8:], np.broadcast_to(exponents, found[8:].shape), atol=1e-4
    )


def test_looks_back_to_a_half_of_the_steps():
    # It moves for 100 steps, then it rests.
    distances = np.minimum(np.arange(1, 301), 100)[:, None]
    found = powers(distances)[:, 0]
    assert found[99] == pytest.approx(1, abs=1e-4)
    assert 0.3 < found[149] < 0.6
    assert (found[200:] == 0).all()


@example([2.0**-126] + 6 * [0.0] + [4.0])
@example([4.0] + 6 * [0.0] + [2.0**-126])
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.floats(0, 10, width=32, allow_subnormal=False),
        min_size=1,
        max_size=40,
    )
)
def test_same_as_written_out(distances):
    actual = powers([[d] for d in distances])[:, 0]
    for t, power in enumerate(actual, start=1):
        expected = reference.growth(np.float64(distances[:t]))
        if not np.isfinite(expected):
            expected = np.nan
        np.testing.assert_allclose(power, expected, rtol=1e-4, atol=1e-4)


def displacement(*shapes):
    """The monitor for one component of such variables, and these."""
    variables = [keras.Variable(np.ones(s, "float32")) for s in shapes]
    made = Displacement(
        [Component("c", "query", "b", tuple(variables))],
        lambda shape, initializer, dtype, name: keras.Variable(
            initializer, shape, dtype, trainable=False, name=name
        ),
    )
    return made, variables


@pytest.mark.parametrize(
    "shape", [(512, 512), (384, 12, 32), (1000, 999), (3, 70000), (90001,)]
)
def test_a_sample_stands_for_all(shape):
    rng = np.random.default_rng(0)
    made, (variable,) = displacement(shape)
    assert SAMPLE / 2 <= made.state["start"].shape[0] <= SAMPLE
    made.begin([variable])
    # Some rows and some columns move far more than others.
    update = rng.standard_normal(shape)
    update *= np.exp(rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
    update *= np.exp(rng.standard_normal(shape[-1:]))
    variable.assign(variable.numpy() + update.astype("float32"))
    made.power([variable], 1, True)
    distance = made.state["anchors"].numpy()[0, 0]
    assert distance == pytest.approx(np.linalg.norm(update), rel=0.35)


def test_small_variables_count_whole():
    made, variables = displacement((4, 5), (5,), ())
    made.begin(variables)
    for v in variables:
        v.assign(v + 2)
    made.power(variables, 1, True)
    distance = made.state["anchors"].numpy()[0, 0]
    assert distance == pytest.approx(2 * np.sqrt(20 + 5 + 1))


def test_it_begins_where_the_first_step_finds_it():
    """Other callbacks may set the weights when training begins."""
    model = small.transformer()
    model.compile(keras.optimizers.SGD(0.01), small.loss())
    other = small.transformer(seed=5).get_weights()
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.set_weights(other)
    )
    grades = GradES(1e-30, monitor="displacement", verbose=0)
    x, y = small.data(12)
    model.fit(x, y, 4, callbacks=[grades, load], shuffle=False, verbose=0)
    loaded = small.transformer(seed=5)
    loaded.compile(keras.optimizers.SGD(0.01), small.loss())
    expected = GradES(1e-30, monitor="displacement", verbose=0)
    loaded.fit(x, y, 4, callbacks=[expected], shuffle=False, verbose=0)
    np.testing.assert_allclose(
        grades.trace["statistic"], expected.trace["statistic"], atol=1e-4
    )
    assert np.isfinite(grades.trace["statistic"][-1]).all()


def test_where_it_began_is_unknown():
    """A checkpoint of another monitor, say, knows nothing of it."""
    made, variables = displacement((4, 5), (5,))
    for step in range(1, 40):
        variables[0].assign(variables[0] + 1)
        power = made.power(variables, step, True)
        assert np.isnan(keras.ops.convert_to_numpy(power)).all()
