"""What is wrong with a run has a defined outcome, and corrupts nothing."""

import keras
import numpy as np
import pytest
import reference
import small
from markers import long_on

import keras_grades
from keras_grades import GradES

pytestmark = pytest.mark.alike

BATCHES, BATCH = 8, 4
HUGE, TINY = 1e30, 1e-30


def compiled(optimizer=None, model=None, **arguments):
    model = model or small.transformer()
    optimizer = optimizer or keras.optimizers.SGD(0.01, 0.9)
    model.compile(optimizer, small.loss(), **arguments)
    return model


def fit(model, *callbacks, data=None, **arguments):
    x, y = data or small.data(BATCHES, BATCH)
    arguments = {
        "batch_size": BATCH,
        "shuffle": False,
        "verbose": 0,
        **arguments,
    }
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def data_with(value, batches):
    """In some batches, counted from 0, one number is another."""
    x, y = small.data(BATCHES, BATCH)
    for batch in batches:
        x[batch * BATCH, 0, 0] = value
    return x, y


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# Numbers that are not


@pytest.mark.everywhere
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_freezes(value):
    """As without GradES the weights are NaN then; nothing counts as small."""
    grades = GradES(HUGE, alpha=3, verbose=0)
    fit(compiled(), grades, data=data_with(value, [1]))
    assert [c.frozen_at for c in grades.components] == [None] * 12
    assert grades.stopped_step is None
    assert np.isfinite(grades.trace["statistic"][0]).all()
    assert not np.isfinite(grades.trace["statistic"][1]).any()


def test_what_was_frozen_before_is_safe():
    grades = GradES({"block_0": HUGE, "": TINY}, alpha=2, verbose=0)
    model = compiled()
    frozen = {}

    def remember(model):
        frozen.update(
            {
                v.path: keras.ops.convert_to_numpy(v).copy()
                for c in grades.components[:6]
                for v in c.variables
            }
        )

    fit(model, grades, small.At(3, remember), data=data_with(np.nan, [4]))
    for v in model.variables:
        value = keras.ops.convert_to_numpy(v)
        if v.path in frozen:
            np.testing.assert_array_equal(value, frozen[v.path])
        elif "block_1_attention" in v.path:
            assert np.isnan(value).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_component_without_a_finite_gradient(value):
    """It does not freeze, the others do."""
    variables = [keras.Variable(np.ones((2, 2), "float32")) for _ in range(3)]
    grads = [np.full((2, 2), 1e-4, "float32") for _ in variables]
    grads[1][0, 1] = value
    components = [component(f"c{i}", v) for i, v in enumerate(variables)]
    frozen_at = one_step(components, variables, grads)
    np.testing.assert_array_equal(frozen_at, [1, 0, 1])


@pytest.mark.everywhere
@pytest.mark.parametrize("bad", [[2, 3, 6]])
def test_steps_that_loss_scaling_skips_do_not_count(bad):
    """As if the batches whose gradient is not finite had not been there."""

    def scaled():
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.05, momentum=0.9), initial_scale=1024.0
        )

    tau = {"block_0": HUGE, "": TINY}
    skipping, without = (
        GradES(tau, alpha=3, monitor="gradient_change", verbose=0)
        for _ in range(2)
    )
    x, y = data_with(np.inf, bad)
    model = compiled(scaled())
    fit(model, skipping, data=(x, y))
    good = np.repeat(~np.isin(np.arange(BATCHES), bad), BATCH)
    plain = compiled(scaled())
    fit(plain, without, data=(x[good], y[good]))
    steps = BATCHES - len(bad)
    np.testing.assert_array_equal(skipping.trace["step"], 1 + np.arange(steps))
    frozen_at = [c.frozen_at for c in skipping.components]
    assert frozen_at == [c.frozen_at for c in without.components]
    assert frozen_at == [3] * 6 + [None] * 6
    np.testing.assert_allclose(
        skipping.trace["statistic"], without.trace["statistic"], rtol=1e-5
    )
    for a, b in zip(small.weights(model), small.weights(plain)):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("tau", [HUGE, TINY, np.float32(1e-44)])
def test_any_positive_tau(tau):
    grades = GradES(tau, alpha=3, verbose=0)
    fit(compiled(), grades)
    assert grades.stopped_step == (3 if tau > 1 else None)


# Data


def test_no_data():
    def nothing():
        return
        yield

    model = compiled()
    optimizer, before = model.optimizer, small.weights(model)
    grades = GradES(HUGE, alpha=1, verbose=0)
    with pytest.raises((ValueError, UnboundLocalError, TypeError)):
        model.fit(nothing(), callbacks=[grades], verbose=0)
    grades.restore()
    assert model.optimizer is optimizer
    assert_same(small.weights(model), before)


@pytest.mark.everywhere
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_less_data_than_announced():
    """The grace period stays that of the plan; training just ends."""
    x, y = small.data(BATCHES, BATCH)
    batches = small.batches(x, y, BATCH)
    grades = GradES(HUGE, alpha=0.5, verbose=0)
    model, plain = compiled(), compiled()
    for m, callbacks in ((model, [grades]), (plain, [])):
        m.fit(
            (batch for batch in batches),
            steps_per_epoch=20,
            callbacks=callbacks,
            verbose=0,
        )
    assert grades.total_steps == 20
    assert grades.stopped_step is None
    assert not any(c.frozen_at for c in grades.components)
    assert int(model.optimizer.iterations) == int(plain.optimizer.iterations)


# Components


def one_step(components, variables, grads, **arguments):
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.1), components, tau=1e-3, alpha=0, **arguments
    )
    optimizer.build(variables)
    reference.apply(
        optimizer, [keras.ops.convert_to_tensor(g) for g in grads], variables
    )
    return keras.ops.convert_to_numpy(optimizer.frozen_at)


def component(name, variable):
    return keras_grades.Component(name, "query", "block", (variable,))


@pytest.mark.parametrize("norm", ["l1", "mean_l1", "l2"])
def test_empty_and_one_element_kernels(norm):
    """What has no element has converged."""
    shapes = [(0, 3), (1, 1), (1, 1)]
    variables = [keras.Variable(np.ones(s, "float32")) for s in shapes]
    grads = [np.full(s, g, "float32") for s, g in zip(shapes, [1, 1e-4, 1])]
    components = [component(f"c{i}", v) for i, v in enumerate(variables)]
    frozen_at = one_step(components, variables, grads, norm=norm)
    np.testing.assert_array_equal(frozen_at, [1, 1, 0])


@long_on("jax", "tensorflow")
def test_thousands_of_components():
    n = 3000
    variables = [keras.Variable(np.ones(2, "float32")) for _ in range(n)]
    grads = [np.full(2, 1e-4 if i % 2 else 1, "float32") for i in range(n)]
    components = [component(f"c{i}", v) for i, v in enumerate(variables)]
    frozen_at = one_step(components, variables, grads)
    np.testing.assert_array_equal(frozen_at, np.arange(n) % 2)


# A model that is changed under way


@pytest.mark.everywhere
@pytest.mark.parametrize(
    ("recompile", "synced"),
    [
        ("always", False),
        pytest.param("always", True, marks=pytest.mark.long),
        pytest.param("never", True, marks=pytest.mark.long),
        pytest.param("never", False, marks=pytest.mark.long),
    ],
)
def test_flags_that_something_else_flips(recompile, synced):
    """Refused when it is seen, at the end of the epoch at the latest."""
    model = compiled()
    optimizer = model.optimizer

    def flip(_):
        model.get_layer("block_1_up").trainable = False

    change = small.At(4, flip)
    if not synced:
        # On JAX, to ask for `callback.model` brings the weights up to date.
        change.on_train_batch_begin = lambda batch, logs=None: (
            flip(None) if batch == 4 else None
        )
    tau = {"block_0": HUGE, "": TINY}
    grades = GradES(tau, alpha=6, recompile=recompile, verbose=0)
    with pytest.raises(ValueError, match="changed during training"):
        fit(model, grades, change)
    grades.restore()
    assert model.optimizer is optimizer
    # The weights are those of a training that went as far.
    steps = int(optimizer.iterations)
    assert 4 <= steps <= BATCHES
    model.get_layer("block_1_up").trainable = True
    check_trained(model, steps)
    fit(compiled(model=model), GradES(HUGE, alpha=2, verbose=0))


@pytest.mark.parametrize("synced", [True, False])
def test_flags_that_are_exchanged_between_epochs(synced):
    """One on, one off, of the same shape: no compiler would notice."""
    model = compiled()
    model.get_layer("block_0_up").trainable = False
    compiled(model=model)

    class Exchange(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                changed = self.model if synced else model
                changed.get_layer("block_0_up").trainable = True
                changed.get_layer("block_1_up").trainable = False
                self.before = small.weights(model)

    change, grades = Exchange(), GradES(TINY, verbose=0)
    with pytest.raises(ValueError, match="changed during training"):
        fit(model, grades, change, epochs=3)
    grades.restore()
    if keras.backend.backend() == "jax":
        # Before the step. The others go by the variables themselves.
        assert_same(small.weights(model), change.before)


def check_trained(model, steps):
    """That each variable has been trained for so many steps."""
    x, y = small.data(BATCHES, BATCH)
    plain = compiled()
    tau = {"block_0": HUGE, "": TINY}
    fit(
        plain,
        GradES(tau, alpha=6, recompile="never", verbose=0),
        data=(x[: steps * BATCH], y[: steps * BATCH]),
    )
    for v, w in zip(model.variables, plain.variables):
        if "block_1_up" not in v.path:
            # PyTorch stops training it at once, which the others feel.
            tolerance = 1e-5 if keras.backend.backend() != "torch" else 0.1
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(v),
                keras.ops.convert_to_numpy(w),
                atol=tolerance,
            )


def test_layers_that_are_added():
    model = keras.Sequential([small.transformer()])
    model.build((None, small.LENGTH, small.WIDTH))
    compiled(model=model)

    def add(_):
        model.add(keras.layers.Dense(small.CLASSES))

    grades = GradES(TINY, verbose=0)
    with pytest.raises(ValueError, match="changed during training"):
        fit(model, grades, small.At(3, add))


@pytest.mark.everywhere
def test_weights_that_something_else_sets():
    """They are taken as they are, also those of what is frozen."""
    model = compiled()
    new = np.full((small.WIDTH, 2, 4), 0.125, "float32")
    grades = GradES(
        {"block_0": HUGE, "": TINY}, alpha=2, recompile="never", verbose=0
    )

    def set_weights(model):
        model.get_layer("block_0_attention").query_dense.kernel.assign(new)

    fit(model, grades, small.At(5, set_weights))
    assert grades.components[0].frozen_at == 2
    kernel = model.get_layer("block_0_attention").query_dense.kernel
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), new)


def test_a_component_without_a_gradient_at_some_steps():
    """Then it is not measured; those before and after count in a row."""
    model = small.transformer()
    components = keras_grades.find_components(model)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(0.01), components, tau=HUGE, alpha=0, patience=1
    )
    variables = model.trainable_variables
    optimizer.build(variables)
    first = {id(v) for v in components[0].variables}
    for has_gradient in (True, False, True, True):
        grads = [
            None
            if id(v) in first and not has_gradient
            else keras.ops.ones(v.shape)
            for v in variables
        ]
        reference.apply(optimizer, grads, variables)
    frozen_at = keras.ops.convert_to_numpy(optimizer.frozen_at)
    np.testing.assert_array_equal(frozen_at, [3] + [2] * 11)


@pytest.mark.everywhere
def test_data_of_unknown_length():
    """Its end is no step."""
    x, y = small.data(BATCHES, BATCH)
    grades = GradES(TINY, alpha=3, verbose=0)
    model = compiled()
    model.fit(
        (batch for batch in small.batches(x, y, BATCH)),
        callbacks=[grades],
        verbose=0,
    )
    np.testing.assert_array_equal(grades.trace["step"], 1 + np.arange(BATCHES))
