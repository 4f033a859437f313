"""Files that earlier versions have written: `fit()` goes on from them.

They are in `tests/checkpoints`, written on JAX by `write.py` there. A file of
one backend is for all.
"""

import warnings

import keras
import numpy as np
import pytest
from checkpoints.write import BATCHES
from checkpoints.write import EXPECTED
from checkpoints.write import FOLDER
from checkpoints.write import RUNS
from checkpoints.write import SAVED
from checkpoints.write import compiled
from checkpoints.write import fit
from checkpoints.write import freeze_state

import keras_grades
from keras_grades import GradES

RETIRED = {"thaw.keras": "thaw", "interval.keras": "interval"}
IN_USE = [name for name in RUNS if name not in RETIRED]


@pytest.fixture(scope="module")
def expected():
    with np.load(EXPECTED) as arrays:
        return dict(arrays)


def check_freeze_state(model, name, expected):
    state = freeze_state(model)
    assert state.keys() == {"below", "converged_at", "frozen_at"}
    for what, value in state.items():
        np.testing.assert_array_equal(value, expected[f"{name}/{what}"], what)


class CheckFreezeState(keras.callbacks.Callback):
    """Before the first step, once the file is loaded."""

    def __init__(self, name, expected):
        super().__init__()
        self.check = lambda: check_freeze_state(self.model, name, expected)
        self.checks = 0

    def on_train_batch_begin(self, batch, logs=None):
        if not self.checks:
            self.check()
        self.checks += 1


@pytest.mark.parametrize("name", IN_USE)
def test_training_goes_on_from_the_file(name, expected):
    callback = GradES(**RUNS[name], verbose=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Skipping variable loading")
        model, *load = resumed(name)
        check = CheckFreezeState(name, expected)
        fit(model, callback, *load, check, initial_epoch=SAVED)
    assert check.checks
    frozen_at = [c.frozen_at or 0 for c in callback.components]
    assert frozen_at == expected[f"{name}/frozen_at_the_end"].tolist()
    assert (callback.stopped_step or 0) == expected[f"{name}/stopped_step"]
    assert callback.trace["step"][0] == SAVED * BATCHES + 1
    np.testing.assert_allclose(
        callback.trace["statistic"],
        expected[f"{name}/statistic"],
        rtol=1e-3,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.concatenate([np.ravel(w) for w in model.get_weights()]),
        expected[f"{name}/weights"],
        atol=1e-5,
    )


def resumed(name):
    """A model, and the callback that loads the rest, if that is left."""
    path = FOLDER / name
    if name.endswith(".keras"):
        model = keras.saving.load_model(path)
        # So the file says, for JAX; PyTorch would compile for minutes.
        model.jit_compile = keras.backend.backend() == "jax"
        return [model]
    model = compiled(name, seed=1)
    return model, keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(path)
    )


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_argument_is_ignored_with_a_warning(name, expected):
    with pytest.warns(UserWarning, match=RETIRED[name]):
        model = keras.saving.load_model(FOLDER / name)
    assert isinstance(model.optimizer, keras_grades.GradESOptimizer)
    assert expected[f"{name}/frozen_at"].any()
    check_freeze_state(model, name, expected)
