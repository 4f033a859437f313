"""`keras.distribution` on JAX: four devices, the decisions of one.

`test_devices.py` runs it, in a process that has four devices.
"""

import collections
import dataclasses
import importlib
import math
import pathlib
import sys
import threading

import keras
import numpy as np
import pytest
import small
from compilations import compilations as compilations
from compilations import prepared as prepared
from spread import BATCH
from spread import GRACE
from spread import HUGE
from spread import MONITORS
from spread import STEPS
from spread import TINY
from spread import WIDTH
from spread import build
from spread import fit
from spread import shardings
from spread import train

from keras_grades import GradES
from keras_grades import find_components
from keras_grades.criterion import Prescribed
from keras_grades.monitors.sample import ENTRIES

BENCHMARKS = pathlib.Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
devices = importlib.import_module("devices_jax")


@pytest.fixture(autouse=True)
def _one_device_afterwards():
    yield
    keras.distribution.set_distribution(None)


@pytest.fixture
def compiled():
    with devices.compiled_steps() as steps:
        yield steps


# By monitor, what it is on one device; by arrangement, what a step sends
# without GradES.
on_one_device, plain = {}, {}


@pytest.mark.parametrize(
    ("arrangement", "monitor"),
    [
        ("data", "transfer"),
        ("model", "transfer"),
        ("both", "gradient"),
        ("both", "transfer"),
        *[
            pytest.param("both", monitor, marks=pytest.mark.long)
            for monitor in MONITORS
            if monitor not in ("gradient", "transfer")
        ],
    ],
)
def test_decisions_of_one_device(arrangement, monitor, compiled):
    if monitor not in on_one_device:
        on_one_device[monitor] = train(None, monitor)
    if arrangement not in plain:
        fit(build(arrangement), steps=1)
        plain[arrangement] = devices.collectives(compiled[-1])
    expected_at, expected_statistic, expected = on_one_device[monitor]
    frozen_at, statistic, weights = train(arrangement, monitor)
    assert frozen_at == expected_at
    assert any(GRACE < (step or 0) < STEPS[monitor] for step in frozen_at)
    np.testing.assert_allclose(statistic, expected_statistic, 1e-3, 1e-5)
    for value, of_one in zip(weights, expected):
        np.testing.assert_allclose(value, of_one, atol=1e-5)
    check_added(devices.collectives(compiled[-1]), plain[arrangement])


def check_added(found, without):
    """No monitor gathers a matrix: what is sent for it are a few numbers."""
    added = {k: collections.Counter(sizes) for k, sizes in found.items()}
    for kind, sizes in without.items():
        assert not collections.Counter(sizes) - added[kind]
        added[kind] -= collections.Counter(sizes)
    # Of each component, from gradients and, for one monitor, from weights.
    # Parts of a matrix are padded to be alike, and so are those of a sample.
    samples = added.pop("all-gather", {})
    assert max(samples, default=0) <= 5 * ENTRIES
    assert all(size <= 4 for sizes in added.values() for size in sizes)


@pytest.mark.parametrize("arrangement", ["data", "both"])
def test_what_is_frozen_is_not_sent(arrangement, compiled):
    class Looks(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if len(compiled) > 1:
                self.model.jax_state_sync()
                assert shardings(self.model) == before
                self.has_looked = True

    model, looks = build(arrangement), Looks()
    before = shardings(model)
    grades = GradES(
        {"query|value|up": HUGE, "": TINY},
        alpha=2,
        recompile="always",
        verbose=0,
    )
    fit(model, grades, looks, steps=5)
    assert looks.has_looked
    assert shardings(model) == before
    frozen = [c for c in grades.components if c.frozen_at]
    assert len(frozen) == 3
    saved = sum(
        4 * math.prod(v.value.sharding.shard_shape(v.shape))
        for component in frozen
        for v in component.variables
    )
    first, last = (sum(devices.collectives(t)["all-reduce"]) for t in compiled)
    if arrangement == "data":
        assert first - last == saved
    else:
        # Neither are some gradients that were on the way to it.
        assert first - last >= saved


@pytest.mark.parametrize(
    "arrangement", ["both", pytest.param("data", marks=pytest.mark.long)]
)
def test_a_step_is_compiled_ahead(arrangement, compilations, prepared):
    """Beside training, once, and as the call would have compiled it."""
    model = build(arrangement)
    before = shardings(model)
    grades = GradES(1.0, cooldown=10, alpha=0, recompile=1, verbose=0)
    # The last one rests at the end; the others in the middle of the fall.
    steps = [8] * (len(find_components(model)) - 1) + [14]
    grades.policy = dataclasses.replace(
        grades.policy, criterion=Prescribed(steps)
    )
    fit(model, grades, steps=24)
    assert [c.frozen_at for c in grades.components] == [s + 10 for s in steps]
    assert len(prepared) == 1
    main = threading.main_thread()
    assert [thread is main for thread in compilations] == [True, False]
    assert shardings(model) == before


def test_a_checkpoint_goes_on_on_one_device(tmp_path):
    path = tmp_path / "first_epoch.keras"

    def train(model, *callbacks, **arguments):
        grades = GradES(
            {"query|down": HUGE, "": TINY},
            alpha=2,
            monitor="gradient_change",
            recompile="always",
            verbose=0,
        )
        fit(model, grades, *callbacks, steps=4, epochs=2, **arguments)
        frozen_at = [c.frozen_at for c in grades.components]
        return frozen_at, grades.trace["statistic"][-4:], small.weights(model)

    frozen_at, statistic, weights = train(
        build("both"), small.SavesFirstEpoch(path)
    )
    keras.distribution.set_distribution(None)
    model = keras.saving.load_model(path)
    found_at, found, found_weights = train(model, initial_epoch=1)
    assert found_at == frozen_at == [2, None, None, None, None, 2]
    np.testing.assert_allclose(found, statistic, rtol=1e-3)
    for value, expected in zip(found_weights, weights):
        np.testing.assert_allclose(value, expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [2, 6])
def test_validation_before_and_after_a_rebuild(alpha):
    """Keras makes the test step for as many weights as train then."""
    model, losses = build("data"), []
    validation = small.turning(1, 80, BATCH, WIDTH)
    grades = GradES(
        {"query": HUGE, "": TINY}, alpha=alpha, recompile="always", verbose=0
    )

    def note(epoch, logs):
        losses.append((logs["val_loss"], by_hand(model, *validation)))

    after_each = keras.callbacks.LambdaCallback(on_epoch_end=note)
    fit(model, grades, after_each, steps=4, epochs=3, validation=validation)
    assert [c.frozen_at for c in grades.components if c.frozen_at] == [alpha]
    compilations = grades.report.timing["compilations"]
    assert [c["step"] for c in compilations] == [1, alpha + 1]
    losses.append((model.evaluate(*validation, verbose=0), losses[-1][1]))
    np.testing.assert_allclose(*zip(*losses), rtol=1e-5)


def by_hand(model, x, y):
    return float(small.loss()(y, model(x)))
