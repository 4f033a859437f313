"""A component that takes no part in a batch is not measured in it."""

import keras
import numpy as np
import pytest
import small

import keras_grades
from keras_grades import GradES

pytestmark = pytest.mark.alike

IDLE = 20


def towers(width=small.WIDTH):
    """Two blocks side by side; an input says which of them a batch trains."""
    inputs = [
        keras.Input((small.LENGTH, width), name=name) for name in ("a", "b")
    ]
    which = keras.Input((1,), name="which")
    outputs = []
    for i, x in enumerate(inputs):
        y = keras.layers.MultiHeadAttention(2, 4, name=f"block_{i}_attention")(
            x, x
        )
        x = keras.layers.Add()([x, y])
        y = keras.layers.Dense(16, activation="relu", name=f"block_{i}_up")(x)
        y = keras.layers.Dense(width, name=f"block_{i}_down")(y)
        x = keras.layers.Add()([x, y])
        x = keras.layers.GlobalAveragePooling1D()(x)
        outputs.append(keras.layers.Dense(small.CLASSES)(x))
    a, b = outputs
    outputs = keras.layers.Add()([a * which, b * (1 - which)])
    model = keras.Model([*inputs, which], outputs)
    small.set_weights(model)
    return model


def data(steps, turns, batch=4):
    """Noise; the second tower's turn comes after `turns` steps, and so on."""
    rng = np.random.default_rng(0)
    n = steps * batch
    shape = (n, small.LENGTH, small.WIDTH)
    x = {name: rng.standard_normal(shape).astype("float32") for name in "ab"}
    is_first = (np.arange(n) // (batch * turns)) % 2 == 0
    x["which"] = is_first.astype("float32")[:, None]
    return x, rng.integers(0, small.CLASSES, n).astype("int32")


def fit(grades, steps, turns, optimizer=None, only_first=False):
    model = towers()
    model.compile(optimizer or keras.optimizers.AdamW(0.003), small.loss())
    x, y = data(steps, turns)
    if only_first:
        is_first = x["which"][:, 0] == 1
        x, y = {k: v[is_first] for k, v in x.items()}, y[is_first]
    model.fit(x, y, 4, shuffle=False, verbose=0, callbacks=[grades])
    return grades


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "arguments",
    [
        {"monitor": "relative_change"},
        {"tau": 1e-20, "monitor": "gradient", "alpha": 0},
        {"tau": 1e-20, "monitor": "gradient_change", "alpha": 0},
        {"tau": 1e-9, "monitor": "weight_change", "alpha": 0},
    ],
)
def test_a_tower_that_waits_has_not_converged(arguments):
    optimizer = keras.optimizers.SGD(0.01) if "tau" in arguments else None
    grades = fit(GradES(verbose=0, **arguments), 6 * IDLE, IDLE, optimizer)
    assert [c.frozen_at for c in grades.components] == [None] * 12
    of_first = [c.name.startswith("block_0") for c in grades.components]
    measured = np.isfinite(grades.trace["statistic"])
    is_first = (np.arange(6 * IDLE) // IDLE) % 2 == 0
    # A step may be undefined where there is none before it.
    waits = np.where(is_first[:, None], ~np.array(of_first), of_first)
    assert not measured[waits].any()
    assert measured[~waits].mean() > 0.9


def test_patience_counts_across_a_wait():
    """Below tau in its own turns only: two steps each, four in a row."""
    grades = fit(GradES(1e9, alpha=0, patience=3, verbose=0), steps=8, turns=2)
    frozen_at = {
        block: {
            c.frozen_at for c in grades.components if c.name.startswith(block)
        }
        for block in ("block_0", "block_1")
    }
    # Steps 1, 2, 5 and 6 of the first tower; 3, 4, 7 and 8 of the second.
    assert frozen_at == {"block_0": {6}, "block_1": {8}}


def test_the_state_of_a_monitor_waits_too():
    """As if the batches of the other tower had not been there."""
    alone, in_turns = (
        fit(
            GradES(1e-9, alpha=0, monitor="relative_change", verbose=0),
            steps=6,
            turns=2,
            optimizer=keras.optimizers.SGD(0.01),
            only_first=only_first,
        )
        for only_first in (True, False)
    )
    of_first = [c.name.startswith("block_0") for c in alone.components]
    statistic = in_turns.trace["statistic"][:, of_first]
    assert np.isnan(statistic[2:4]).all()
    np.testing.assert_allclose(
        statistic[[0, 1, 4, 5]],
        alone.trace["statistic"][:, of_first],
        rtol=1e-4,
    )


def test_a_nan_gradient_is_measured():
    """It is no idle one: what was counted begins anew."""
    variable = keras.Variable(np.ones((2, 2), "float32"))
    component = keras_grades.Component("c", "query", "b", (variable,))
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.0), [component], tau=1.0, alpha=0, patience=1
    )
    optimizer.build([variable])
    for value in (0.1, np.nan, 0.1, 0.1):
        gradient = keras.ops.full((2, 2), value, "float32")
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                optimizer.apply([gradient], [variable])
        else:
            optimizer.apply([gradient], [variable])
    assert keras.ops.convert_to_numpy(optimizer.frozen_at).tolist() == [4]


@pytest.mark.everywhere
@pytest.mark.parametrize("monitor", ["relative_change", "gradient_change"])
def test_checks_of_numerics_find_nothing(monitor):
    """No number of ours is NaN or infinite inside the step."""
    backend = keras.backend.backend()
    if backend == "torch":
        pytest.skip("PyTorch checks gradients only")
    grades = GradES(0.5, alpha=0, monitor=monitor, verbose=0)
    if backend == "jax":
        import jax

        with jax.debug_nans(True):
            fit(grades, 4, 2)
    else:
        import tensorflow as tf

        tf.debugging.enable_check_numerics()
        try:
            fit(grades, 4, 2)
        finally:
            tf.debugging.disable_check_numerics()
    assert len(grades.trace["step"]) == 4
