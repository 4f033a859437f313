"""What a step costs besides its arithmetic: transfers, copies, waiting."""

import dataclasses
import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES
from keras_grades.backend import backend
from keras_grades.criterion import Prescribed
from keras_grades.train_step import find_grades_optimizer

HUGE, TINY = 1e30, 1e-30

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="it is JAX that dispatches ahead"
)


def compiled(**arguments):
    model = small.transformer()
    model.compile(keras.optimizers.Adam(0.01), small.loss(), **arguments)
    return model


@pytest.fixture
def reads(monkeypatch):
    """Counts the arrays that are read on the host, on JAX."""
    from jax._src import array

    real, count = array.ArrayImpl._value, []

    def counted(self):
        count.append(1)
        return real.fget(self)

    monkeypatch.setattr(array.ArrayImpl, "_value", property(counted))
    return count


@on_jax
@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("monitor", ["gradient", "weight_change"])
def test_no_transfer_between_looks(reads, monitor, verbose):
    """On a GPU or TPU the guard raises; on a CPU, where it does not, count."""
    import jax

    steps, grace = 160, 80
    reads_before = []

    class Between(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            reads_before.append(len(reads))

    grades = GradES(TINY, alpha=grace, monitor=monitor, verbose=verbose)
    x, y = small.data(steps)
    model = compiled()
    with jax.transfer_guard_device_to_host("disallow"):
        # `device_get`, which a look is, is explicit: the guard lets it pass.
        model.fit(x, y, 4, verbose=0, callbacks=[Between(), grades])
    looked_after = {
        step for step, n in enumerate(np.diff(reads_before), 1) if n
    }
    # The first step is timed; from the end of the grace period on it looks
    # once in a hundredth of the steps, whole steps, and before its buffer of
    # 64 steps is full.
    assert looked_after <= {1, 64, *range(grace, steps)}
    assert {1, 64, grace} <= looked_after


def test_keras_dispatches_ahead_as_without():
    """No hook that makes Keras fetch the logs of each batch."""
    callbacks = keras.callbacks.CallbackList([GradES(TINY)])
    without = keras.callbacks.CallbackList([])
    assert callbacks._async_train == without._async_train
    hook = GradES.on_train_batch_end
    assert hook is keras.callbacks.Callback.on_train_batch_end


def test_copies_of_gradients_go_with_the_structural_freeze():
    kept, copies = [], []

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            optimizer = find_grades_optimizer(self.model)
            found = [
                v for v in optimizer.variables if "previous_gradient" in v.name
            ]
            copies[:] = copies or [weakref.ref(v) for v in found]
            kept.append(len(found))

    grades = GradES(
        {"block_0": HUGE, "": TINY},
        alpha=3,
        monitor="gradient_change",
        recompile="always",
        verbose=0,
    )
    x, y = small.data(8)
    model = compiled()
    model.fit(x, y, 4, verbose=0, callbacks=[grades, Count()])
    components = grades.components
    everything = sum(len(c.variables) for c in components)
    active = sum(len(c.variables) for c in components if not c.frozen_at)
    assert 0 < active < everything
    # A component freezes at step 3, and structurally before the next.
    assert kept == [everything] * 3 + [active] * 5
    gc.collect()
    assert len(copies) == everything
    assert sum(c() is not None for c in copies) <= active


def test_compiler_is_not_driven_to_give_up(monkeypatch):
    """After as many rebuilds as are allowed, freezing is logical, and said."""
    monkeypatch.setattr(backend, "max_rebuilds", lambda model: 1)
    grades = one_by_one(12)
    rebuilds = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rebuilds.append(
            len(model.non_trainable_variables)
        )
    )
    x, y = small.data(9)
    model = compiled()
    with pytest.warns(UserWarning, match="rebuilt once more") as caught:
        model.fit(x, y, 4, verbose=0, callbacks=[grades, count])
    assert ["rebuilt once more" in str(w.message) for w in caught].count(
        True
    ) == 1
    assert [c.frozen_at for c in grades.components[:4]] == [2, 4, 6, 8]
    assert len(grades.report.timing["compilations"]) == 2
    # The kernel of one component, and no more.
    assert np.diff(rebuilds).tolist() == [0, 1] + [0] * 6


@pytest.mark.long
@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the limit is that of Dynamo"
)
def test_dynamo_does_not_give_up_on_the_train_step(monkeypatch, caplog):
    import torch

    # What the graphs are compiled to makes no difference here, only time.
    compile_eagerly = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.SGD(0.01), small.loss(), jit_compile=True)
    grades = one_by_one(6)
    x, y = small.data(14)
    with pytest.warns(UserWarning, match="rebuilt once more"):
        model.fit(x, y, 4, verbose=0, callbacks=[grades])
    assert [c.frozen_at for c in grades.components] == [2, 4, 6, 8, 10, 12]
    given_up = [
        r.getMessage()
        for r in caplog.records
        if "recompile_limit" in r.getMessage()
    ]
    assert not [m for m in given_up if "train_step" in m]


def one_by_one(components):
    """Freezes a component every second step, and rebuilds each time."""
    grades = GradES(1.0, alpha=0, recompile="always", verbose=0)
    steps = range(2, 2 * components + 1, 2)
    grades.policy = dataclasses.replace(
        grades.policy, criterion=Prescribed(steps)
    )
    return grades
