"""What GradES promises, against a plain loop written out by hand.

The loop of `reference.py` takes plain gradients, decides in numpy and sets
variables non-trainable by hand.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import reference
import small

import keras_grades

STEPS = 16
BATCH = 4
GRACE = 3

OPTIMIZERS = {
    "sgd": lambda **clip: keras.optimizers.SGD(0.05, momentum=0.9, **clip),
    "adam": lambda **clip: keras.optimizers.Adam(0.01, **clip),
    "adamw": lambda **clip: keras.optimizers.AdamW(
        0.01, weight_decay=0.2, **clip
    ),
}
CLIPS = {"unclipped": {}, "clipped": {"global_clipnorm": 0.5}}
# `transfer`, which converges together, is held against the plain loop in
# `test_transfer.py`.
MONITORS = ("gradient", "gradient_change", "weight_change", "relative_change")
NORMS = ("l1", "mean_l1", "l2")
PATIENCES = (0, 1, 2)


@pytest.fixture(autouse=True, scope="module")
def _optimized():
    """Exactness is promised for what compilers really make of a step."""
    _optimize(True)
    yield
    _optimize(False)


def _optimize(is_on):
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", not is_on)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": not is_on}
        )


def case(optimizer, clip, monitor, norm, patience):
    return {
        "optimizer": optimizer,
        "clip": clip,
        "monitor": monitor,
        "norm": norm,
        "patience": patience,
    }


# Each value of each argument, and each monitor with each norm.
SAMPLE = [
    case("sgd", "unclipped", "gradient", "l1", patience=0),
    case("adamw", "clipped", "gradient", "mean_l1", patience=1),
    case("adam", "clipped", "gradient", "l2", patience=2),
    case("adamw", "unclipped", "gradient_change", "l1", patience=1),
    case("sgd", "clipped", "gradient_change", "mean_l1", patience=2),
    case("adam", "unclipped", "gradient_change", "l2", patience=0),
    case("adam", "clipped", "weight_change", "l1", patience=2),
    case("adamw", "clipped", "weight_change", "mean_l1", patience=0),
    case("sgd", "unclipped", "weight_change", "l2", patience=1),
    case("adamw", "clipped", "relative_change", "l1", patience=2),
]
# Every optimizer, clipped or not, with every statistic; the rest in turns.
ALL = [
    case(*values, PATIENCES[i % 3])
    for i, values in enumerate(
        [
            (optimizer, clip, monitor, norm)
            for optimizer, clip, monitor, norm in itertools.product(
                OPTIMIZERS, CLIPS, MONITORS, NORMS
            )
            # It has no norm.
            if monitor != "relative_change" or norm == "l1"
        ]
    )
]


def name(arguments):
    *words, patience = arguments.values()
    return "-".join([*words, f"patience_{patience}"])


def batches():
    return small.batches(*small.data(STEPS, BATCH), BATCH)


def run_reference(arguments, tau):
    """The independent loop: freeze steps, statistics, final weights."""
    arguments = dict(arguments)
    optimizer = OPTIMIZERS[arguments.pop("optimizer")]
    clip = CLIPS[arguments.pop("clip")]
    model = small.transformer(blocks=1)
    groups = [c.variables for c in keras_grades.find_components(model)]
    frozen_at, trace = reference.train(
        model,
        optimizer(**clip),
        small.loss(),
        batches(),
        groups,
        tau=[tau] * len(groups),
        grace_steps=GRACE,
        **arguments,
    )
    return frozen_at, trace, model.get_weights()


@functools.cache
def seen_without_freezing(optimizer, clip):
    """All steps of each component, whatever is measured."""
    model = small.transformer(blocks=1)
    optimizer = OPTIMIZERS[optimizer](**CLIPS[clip])
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    components = [
        reference.Watched(list(c.variables), tau=0.0)
        for c in keras_grades.find_components(model)
    ]
    for batch in batches():
        gradient_of = reference.mean_gradients(model, [batch], small.loss())
        reference.see_before(components, gradient_of)
        reference.update(optimizer, variables, gradient_of, zeroed=False)
        reference.see_after(components)
    return [c.seen for c in components]


def never_freezing(optimizer, clip, monitor, norm):
    measure, norm = reference.MONITORS[monitor], reference.NORMS[norm]
    components = seen_without_freezing(optimizer, clip)
    return np.array(
        [
            [measure(seen[:step], norm) for seen in components]
            for step in range(1, STEPS + 1)
        ]
    )


def middle_tau(arguments):
    """A threshold that half of the components fall below, if none freezes.

    They do before the last steps: what is frozen has to stay so.
    """
    keys = ("optimizer", "clip", "monitor", "norm")
    trace = never_freezing(*(arguments[k] for k in keys))
    windows = np.lib.stride_tricks.sliding_window_view(
        trace[GRACE:-3], arguments["patience"] + 1, axis=0
    )
    return float(np.median(np.nanmin(windows.max(axis=-1), axis=0)))


def run_fit(
    arguments, tau, recompile, callbacks=(), alpha=GRACE, **compile_arguments
):
    arguments = dict(arguments)
    optimizer = OPTIMIZERS[arguments.pop("optimizer")]
    clip = CLIPS[arguments.pop("clip")]
    model = small.transformer(blocks=1)
    model.compile(optimizer(**clip), small.loss(), **compile_arguments)
    callback = keras_grades.GradES(
        tau, alpha=alpha, recompile=recompile, verbose=0, **arguments
    )
    x, y = small.data(STEPS, BATCH)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        callbacks=[callback, *callbacks],
        verbose=0,
    )
    return callback, model.get_weights()


def check_against_reference(arguments, recompile, tau=None):
    tau = tau or middle_tau(arguments)
    frozen_at, trace, weights = run_reference(arguments, tau)
    assert 0 < np.count_nonzero(frozen_at) < len(frozen_at)
    assert min(step for step in frozen_at if step) < STEPS - 1

    callback, fit_weights = run_fit(arguments, tau, recompile)
    assert [c.frozen_at or 0 for c in callback.components] == frozen_at
    np.testing.assert_array_equal(
        callback.trace["step"], np.arange(1, STEPS + 1)
    )
    np.testing.assert_allclose(
        callback.trace["statistic"], trace, rtol=2e-4, atol=1e-7
    )
    for actual, expected in zip(fit_weights, weights):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("arguments", SAMPLE, ids=name)
def test_same_as_a_plain_loop(arguments):
    # Both ways of freezing, in turn.
    recompile = ("never", "always", "never", 2)[SAMPLE.index(arguments) % 4]
    check_against_reference(arguments, recompile)


@pytest.mark.long
@pytest.mark.parametrize("arguments", ALL, ids=name)
def test_same_as_a_plain_loop_everywhere(arguments):
    recompile = "never" if ALL.index(arguments) % 2 else "always"
    check_against_reference(arguments, recompile)


COOLING = [
    (case("sgd", "unclipped", "gradient", "l1", patience=0), 4, "never"),
    (
        case("adamw", "clipped", "weight_change", "mean_l1", patience=1),
        0.25,
        "always",
    ),
    (
        case("adam", "clipped", "gradient_change", "l2", patience=2),
        3,
        2,
    ),
]


@pytest.mark.parametrize(
    ("arguments", "cooldown", "recompile"),
    COOLING,
    ids=[name(arguments) for arguments, _, _ in COOLING],
)
def test_cooling_down_is_the_same_as_in_a_plain_loop(
    arguments, cooldown, recompile
):
    tau = middle_tau(arguments)
    check_against_reference({**arguments, "cooldown": cooldown}, recompile, tau)


class Weights(keras.callbacks.Callback):
    """Keeps the value of each component's variables after each step."""

    def __init__(self, grades):
        super().__init__()
        self.grades = grades
        self.after_step = []

    def on_train_batch_end(self, batch, logs=None):
        assert self.model is not None  # Brings the weights up to date on JAX.
        self.after_step.append(
            [
                [keras.ops.convert_to_numpy(v) for v in c.variables]
                for c in self.grades.components
            ]
        )


@pytest.mark.parametrize(
    ("optimizer", "recompile", "cooldown"),
    [
        ("sgd", "always", 0),
        ("adamw", "never", 0),
        ("adamw", 2, 0),
        ("adamw", "never", 2),
    ],
)
def test_frozen_means_frozen_bit_for_bit(optimizer, recompile, cooldown):
    tau = middle_tau(
        case(optimizer, "unclipped", "gradient", "mean_l1", patience=0)
    )
    model = small.transformer(blocks=1)
    model.compile(OPTIMIZERS[optimizer](), small.loss())
    grades = keras_grades.GradES(
        tau,
        alpha=GRACE,
        norm="mean_l1",
        recompile=recompile,
        cooldown=cooldown,
        verbose=0,
    )
    weights = Weights(grades)
    x, y = small.data(STEPS, BATCH)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        callbacks=[grades, weights],
        verbose=0,
    )
    frozen = [i for i, c in enumerate(grades.components) if c.frozen_at]
    assert frozen
    for i, component in enumerate(grades.components):
        values = [step[i] for step in weights.after_step]
        last = component.frozen_at or STEPS
        for before, after in itertools.pairwise(values[:last]):
            assert not np.array_equal(before[0], after[0])
        for value in values[last:]:
            for actual, expected in zip(value, values[last - 1]):
                np.testing.assert_array_equal(actual, expected)


@functools.cache
def plain_fit(optimizer, **compile_arguments):
    model = small.transformer(blocks=1)
    model.compile(OPTIMIZERS[optimizer](), small.loss(), **compile_arguments)
    x, y = small.data(STEPS, BATCH)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.alike
@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_never_freezing_is_plain_training(optimizer, monitor):
    arguments = case(optimizer, "unclipped", monitor, "l1", patience=0)
    callback, weights = run_fit(arguments, 1e-30, "auto")
    assert not any(c.frozen_at for c in callback.components)
    for actual, expected in zip(weights, plain_fit(optimizer)):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.alike
@pytest.mark.parametrize("monitor", [*MONITORS, "transfer"])
def test_never_freezing_is_plain_training_bit_for_bit_when_eager(
    monitor,
):
    # `transfer` would settle at the end of the plan.
    alpha = 10 * STEPS if monitor == "transfer" else GRACE
    arguments = case("adamw", "unclipped", monitor, "l1", patience=0)
    _, weights = run_fit(
        arguments, 1e-30, "auto", alpha=alpha, run_eagerly=True
    )
    for actual, expected in zip(weights, plain_fit("adamw", run_eagerly=True)):
        np.testing.assert_array_equal(actual, expected)
