"""The private parts of Keras's saving, callbacks, and state on JAX."""

import keras
import numpy as np
import pytest
import small

from keras_grades.keras_internals import callbacks
from keras_grades.keras_internals import jax_state
from keras_grades.keras_internals import saving


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
    replaced = saving.save_with(model, keras.optimizers.Lion())
    assert replaced is model.optimizer
    path = tmp_path / "model.keras"
    assert saved_optimizer(model, path) == "Lion"
    saving.save_with(model, replaced)
    assert saved_optimizer(model, path) == "SGD"


def test_loss_scaling_is_saved_as_it_is(tmp_path):
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    model = compiled(scaling)
    assert saving.save_with(model, keras.optimizers.Lion()) is scaling
    path = tmp_path / "model.keras"
    assert saved_optimizer(model, path) == "LossScaleOptimizer"


class Inside:
    """An optimizer that was built with more than it has now."""

    def values_as_built(self):
        return [np.float32(10), np.float32(20)]


def test_loss_scaling_saves_all_of_what_is_inside():
    scaling = compiled(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    ).optimizer
    before, after = {}, {}
    scaling.save_own_variables(before)
    inner = len(scaling.inner_optimizer.variables)
    own = len(before) - inner
    undo = saving.save_inside(scaling, Inside())
    scaling.save_own_variables(after)
    assert [float(after[str(own + i)]) for i in range(2)] == [10, 20]
    assert len(after) == own + 2
    for i in range(own):
        np.testing.assert_array_equal(after[str(i)], before[str(i)])
    undo()
    again = {}
    scaling.save_own_variables(again)
    assert again.keys() == before.keys()


def test_other_optimizers_save_themselves():
    optimizer = compiled(keras.optimizers.SGD()).optimizer
    saving.save_inside(optimizer, Inside())
    store = {}
    optimizer.save_own_variables(store)
    assert len(store) == len(optimizer.variables)


@pytest.mark.parametrize("key", ["0", "components"])
def test_loading_is_watched(key):
    optimizer = compiled(keras.optimizers.SGD()).optimizer
    end = saving.watch_loading(optimizer, lambda store: "components" in store)
    store = {}
    optimizer.save_own_variables(store)
    if key not in store:
        store[key] = np.zeros(1)
        with pytest.warns(UserWarning, match="Skipping"):
            optimizer.load_own_variables(store)
    else:
        optimizer.load_own_variables(store)
    assert end() == (key == "components")
    assert "load_own_variables" not in vars(optimizer)


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
