"""A `train_step` with optimizers of its own: `GradES(optimizer=...)`."""

import keras
import numpy as np
import pytest
import small
from markers import long_on
from small import fit

from keras_grades import GradES
from keras_grades import GradESOptimizer
from keras_grades import find_components

HUGE = 1e30
BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX refuses")
not_on_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="Keras trains with `model.optimizer` alone"
)


class TwoTowers(keras.Model):
    """Two towers that are trained beside each other, as those of a GAN are."""

    def __init__(self):
        super().__init__()
        self.first = small.transformer(blocks=1)
        self.second = small.transformer(blocks=1, seed=1)
        self.build((None, small.LENGTH, small.WIDTH))

    def build(self, shape):
        self.built = True

    def call(self, x):
        return self.first(x) + self.second(x)

    def compile(self, is_built=True, **arguments):
        super().compile(**arguments)
        self.first_optimizer = keras.optimizers.Adam(0.01)
        self.second_optimizer = keras.optimizers.SGD(0.05)
        if is_built:
            self.first_optimizer.build(self.first.trainable_variables)
            self.second_optimizer.build(self.second.trainable_variables)

    def train_step(self, data):
        x, y = data
        for tower, optimizer in (
            (self.first, self.first_optimizer),
            (self.second, self.second_optimizer),
        ):
            gradients = gradients_of(tower, x, y)
            optimizer.apply(gradients, tower.trainable_variables)
        return {"loss": loss_of(self.first, x, y)}


def loss_of(tower, x, y):
    return small.loss()(y, tower(x, training=True))


def gradients_of(tower, x, y):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(tower, x, y)
        return tape.gradient(loss, tower.trainable_variables)
    import torch

    values = [v.value for v in tower.trainable_variables]
    return list(torch.autograd.grad(loss_of(tower, x, y), values))


def compiled(**arguments):
    model = TwoTowers()
    model.compile(**arguments)
    return model


def freeze_by_hand(model):
    """What plain Keras does, in place of GradES."""
    model.first.get_layer("block_0_down").trainable = False
    model.make_train_function(force=True)


@not_on_jax
@pytest.mark.parametrize("recompile", ["always", "never"])
def test_the_optimizer_that_is_named_is_watched(recompile):
    model, plain = compiled(), compiled()
    optimizers = model.first_optimizer, model.second_optimizer
    grades = GradES(
        {"down": HUGE, "": 1e-30},
        alpha=3,
        optimizer="first_optimizer",
        recompile=recompile,
        verbose=0,
    )
    fit(model, grades)
    fit(plain, small.At(3, freeze_by_hand))

    frozen = [c for c in grades.components if c.frozen_at]
    assert [c.frozen_at for c in frozen] == [3]
    assert len(grades.components) == 6
    ids = {id(v) for v in model.first.trainable_variables}
    assert all(id(v) in ids for c in grades.components for v in c.variables)
    for value, expected in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert (model.first_optimizer, model.second_optimizer) == optimizers
    assert all(v.trainable for v in model.trainable_variables)
    assert "train_step" not in vars(model)


@not_on_jax
@long_on("tensorflow")
def test_fit_stops_once_that_optimizer_has_no_more_to_do():
    model = compiled()
    grades = GradES(HUGE, alpha=2, optimizer="second_optimizer", verbose=0)
    history = keras.callbacks.History()
    fit(model, grades, history)
    assert grades.stopped_step == 2
    assert history.history["frozen_ratio"] == [1.0]
    assert int(model.first_optimizer.iterations) == 2


@not_on_jax
@long_on("tensorflow")
def test_a_path_of_attributes():
    model = compiled()
    # As a trainer object that the model has would hold it.
    model.first.its = keras.layers.Identity()
    model.first.its.optimizer = model.first_optimizer
    grades = GradES(HUGE, alpha=2, optimizer="first.its.optimizer", verbose=0)
    with pytest.warns(UserWarning, match="optimizers of its own"):
        # The model trains with another attribute: that is found out.
        fit(model, grades, epochs=6)
    assert model.first.its.optimizer is model.first_optimizer


@not_on_jax
def test_its_state_is_saved_in_the_middle_of_training_and_taken_up(tmp_path):
    model, whole = compiled(), compiled()
    arguments = {"alpha": 8, "optimizer": "first_optimizer", "verbose": 0}
    tau = {"down": HUGE, "": 1e-30}
    fit(whole, GradES(tau, **arguments), epochs=2)

    backup = keras.callbacks.BackupAndRestore(tmp_path)

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, backup, GradES(tau, **arguments), Killed(), epochs=2)
    again, grades = compiled(), GradES(tau, **arguments)
    fit(again, keras.callbacks.BackupAndRestore(tmp_path), grades, epochs=2)
    assert [c.frozen_at for c in grades.components if c.frozen_at] == [8]
    for value, expected in zip(again.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(value, expected)


@not_on_jax
@long_on("tensorflow")
def test_one_that_was_wrapped_already_is_taken_over():
    model = compiled()
    inner = model.first_optimizer
    model.first_optimizer = GradESOptimizer(
        inner, find_components(model.first), tau=HUGE, alpha=1
    )
    model.first_optimizer.build(model.first.trainable_variables)
    grades = GradES(HUGE, alpha=2, optimizer="first_optimizer", verbose=0)
    fit(model, grades)
    assert grades.stopped_step == 2
    assert model.first_optimizer is inner


@not_on_jax
@pytest.mark.parametrize(
    "name, is_built, message",
    [
        ("third", True, "has: optimizer, first_optimizer, second_optimizer"),
        ("first", True, "This model has: optimizer"),
        ("first.optimizers.x", True, "This model has: optimizer"),
        ("first_optimizer", False, r"first_optimizer.build\(variables\)"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_the_first_step(
    name, is_built, message
):
    model = compiled(is_built=is_built)
    before = small.weights(model)
    with pytest.raises(ValueError, match=message):
        fit(model, GradES(HUGE, alpha=1, optimizer=name))
    for value, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, expected)


@not_on_jax
def test_components_that_another_optimizer_trains_are_refused():
    model = compiled()
    with pytest.raises(ValueError, match="lists something that is not"):
        fit(
            model,
            GradES(
                HUGE,
                alpha=1,
                optimizer="first_optimizer",
                components=[model.second.get_layer("block_0_down")],
            ),
        )
    head = [model.first.get_layer("head").kernel]
    model.first_optimizer = keras.optimizers.SGD()
    model.first_optimizer.build(head)
    with pytest.raises(ValueError, match="trains none of the components"):
        fit(model, GradES(HUGE, alpha=1, optimizer="first_optimizer"))


@on_jax
def test_jax_refuses_other_optimizers():
    model = compiled()
    with pytest.raises(ValueError, match="MultiOptimizer"):
        fit(model, GradES(HUGE, alpha=1, optimizer="first_optimizer"))


@pytest.mark.parametrize(
    "value, error",
    [(3, TypeError), ("", ValueError), ("a..b", ValueError)],
)
def test_a_name_that_is_none_is_refused_at_once(value, error):
    with pytest.raises(error, match="`optimizer` must be"):
        GradES(optimizer=value)


def test_truncation_goes_by_the_optimizer_of_the_model():
    with pytest.raises(ValueError, match="truncate_backward"):
        GradES(optimizer="first_optimizer", truncate_backward=True)


@not_on_jax
def test_an_optimizer_that_nobody_uses_stays_unbuilt():
    """It would keep state for all weights."""
    model, plain = compiled(optimizer="adam"), compiled(optimizer="adam")
    fit(model, GradES(HUGE, alpha=3, optimizer="first_optimizer", verbose=0))
    # On PyTorch Keras itself builds it.
    fit(plain)
    assert model.optimizer.built == plain.optimizer.built
    assert plain.optimizer.built == (BACKEND == "torch")
