"""The private parts of Keras's saving, callbacks, and state on JAX."""

import copy

import keras
import numpy as np
import pytest
import small

from keras_grades.keras_internals import callbacks
from keras_grades.keras_internals import jax_state
from keras_grades.keras_internals import saving
from keras_grades.keras_internals.trackable import TrackedAs


def compiled(optimizer):
    model = small.transformer(blocks=1)
    model.compile(optimizer, small.loss())
    model.optimizer.build(model.trainable_variables)
    return model


def saved_optimizer(model, path):
    model.save(path)
    return type(keras.saving.load_model(path).optimizer).__name__


def test_a_model_is_saved_with_another_optimizer(tmp_path):
    model = compiled(keras.optimizers.SGD())
    saving.compile_with(model, keras.optimizers.Lion())
    assert saved_optimizer(model, tmp_path / "model.keras") == "Lion"


def test_loss_scaling_is_saved_as_it_is(tmp_path):
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    model = compiled(scaling)
    saving.compile_with(model, keras.optimizers.Lion())
    path = tmp_path / "model.keras"
    assert saved_optimizer(model, path) == "LossScaleOptimizer"


def test_a_part_is_saved_beside_the_rest(tmp_path):
    model = compiled(keras.optimizers.SGD())
    loaded = []
    model.optimizer.part = saving.Part(
        lambda store: store.__setitem__("a", np.arange(3)),
        lambda store: loaded.append(store["a"][:]),
    )
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    model.load_weights(path)
    np.testing.assert_array_equal(loaded[0], np.arange(3))
    # Others pass over it.
    plain = compiled(keras.optimizers.SGD())
    plain.load_weights(path)


class Around:
    """A wrapper that has more variables than what it wraps."""

    def __init__(self, inner):
        self.inner_optimizer = inner
        self.variables = [*inner.variables, keras.Variable(1.0)]


def test_loss_scaling_saves_what_is_inside_as_if_it_were_alone():
    scaling = compiled(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    ).optimizer
    before, after = {}, {}
    scaling.save_own_variables(before)
    inner = scaling.inner_optimizer
    wrapper = scaling.inner_optimizer = Around(inner)
    undo = saving.save_as_if_alone(scaling, wrapper)
    scaling.save_own_variables(after)
    assert after.keys() == before.keys()
    inner.iterations.assign(7)
    scaling.load_own_variables(after)
    assert int(inner.iterations) == 0
    undo()
    again = {}
    scaling.save_own_variables(again)
    assert len(again) == len(before) + 1


def test_other_optimizers_save_themselves():
    optimizer = compiled(keras.optimizers.SGD()).optimizer
    saving.save_as_if_alone(optimizer, Around(optimizer))
    assert "save_own_variables" not in vars(optimizer)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_an_optimizer_that_was_marked_is_noticed_when_loaded(is_scaled):
    optimizer = keras.optimizers.Adamax()
    if is_scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = compiled(optimizer)
    created = []
    registered, key = keras.saving.get_custom_objects(), "optimizers.Adamax"
    before = dict(registered)
    saving.register_marked(created.append)
    try:
        config = model.get_compile_config()
        keras.saving.deserialize_keras_object(copy.deepcopy(config))
        assert not created
        marked = saving.mark(config)
        keras.saving.deserialize_keras_object(copy.deepcopy(marked))
        assert [o.name for o in created] == ["adamax"]
        # Where nobody has registered, Keras finds its own.
        del registered[key]
        found = keras.saving.deserialize_keras_object(marked)["optimizer"]
        found = getattr(found, "inner_optimizer", found)
        assert isinstance(found, keras.optimizers.Adamax)
        assert len(created) == 1
    finally:
        registered.update(before)
    assert saving.mark(None) is None
    # Classes of users have other names.
    assert not set(vars(keras.optimizers)) & set(registered)


def test_a_callback_keeps_its_model_here():
    callback, model = keras.callbacks.Callback(), small.transformer(blocks=1)
    callback.set_model(model)
    assert vars(callback)[callbacks.MODEL] is model
    state = callbacks.state_without_model(callback)
    assert state.keys() == vars(callback).keys()
    assert state[callbacks.MODEL] is None


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="there the state is apart"
)
def test_state_on_jax():
    """`fit()` keeps it in the parts that are named, and writes it back."""
    model = compiled(keras.optimizers.SGD(0.1))
    checks, seen = [], []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # `_model`: to ask for `model` would write the state back.
            seen.append(set(self._model._jax_state))
            assert not self._model._jax_state_synced
            self._model.jax_state_sync()
            assert self._model._jax_state_synced

    jax_state.guard(model, lambda: checks.append(1))
    for name in jax_state.GUARDS:
        assert name in vars(model)
    before = small.weights(model)
    x, y = small.data(3)
    model.fit(x, y, 4, verbose=0, callbacks=[Look()])
    assert seen == [set(jax_state.PARTS)] * 3
    # The state was taken anew at each step, since it had been written back.
    assert len(checks) == 3
    after = small.weights(model)
    assert any((a != b).any() for a, b in zip(after, before))

    values = tuple(
        [np.full(v.shape, 2, v.dtype) for v in getattr(model, part)]
        for part in ("trainable_variables", "non_trainable_variables")
    )
    state = (*values, [v.value for v in model.optimizer.variables], [])
    jax_state.write_back(model, state)
    for weights in model.trainable_variables:
        np.testing.assert_array_equal(weights.numpy(), 2)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Nobody asks elsewhere."
)
def test_tensorflow_asks_for_parts_by_name(tmp_path):
    import tensorflow as tf

    class Stands(TrackedAs, tf.Module):
        def tracked_as(self):
            return optimizer, {"part": part}

    optimizer, part = keras.optimizers.SGD(), tf.Variable(3.0)
    optimizer.iterations.assign(5)
    path = tf.train.Checkpoint(whole=Stands()).write(tmp_path / "c")
    names = [name for name, _ in tf.train.list_variables(path)]
    for name in ("_iterations", "part"):
        assert [n for n in names if n.startswith(f"whole/{name}/")]
    part.assign(0.0)
    optimizer.iterations.assign(0)
    tf.train.Checkpoint(whole=Stands()).read(path).assert_consumed()
    assert float(part) == 3 and int(optimizer.iterations) == 5
