"""`keras.distribution` on JAX: two processes with two devices each.

`test_devices.py` runs it in both of them, with `PROCESS` 0 and 1, and a
`PORT` for them to meet at. Where they part they wait for each other in vain.
"""

import dataclasses
import os

import jax
import keras
import numpy as np
import pytest
from spread import GRACE
from spread import MONITORS
from spread import STEPS
from spread import build
from spread import fit
from spread import train
from spread import weights

from keras_grades import GradES
from keras_grades.criterion import Prescribed
from keras_grades.rebuild.decision import RebuildPolicy

FROZEN_AT = [2, 0, 0, 0, 0, 2]


@pytest.fixture(autouse=True, scope="session")
def _meet():
    jax.distributed.initialize(
        f"localhost:{os.environ['PORT']}", 2, int(os.environ["PROCESS"])
    )


@pytest.mark.long
@pytest.mark.parametrize("monitor", MONITORS)
def test_decisions_of_one_device(monitor):
    """Also, `fit()` ends: what is frozen is nowhere as a whole."""
    expected_at, expected_statistic, expected = train(None, monitor)
    frozen_at, statistic, found = train("both", monitor)
    assert frozen_at == expected_at
    assert any(GRACE < (step or 0) < STEPS[monitor] for step in frozen_at)
    np.testing.assert_allclose(statistic, expected_statistic, 1e-3, 1e-5)
    for value, of_one in zip(found, expected):
        np.testing.assert_allclose(value, of_one, atol=1e-5)


def grades_for(recompile):
    """It samples matrices; two freeze at once, and no others."""
    grades = GradES(monitor="relative_change", recompile=recompile, verbose=0)
    grades.policy = dataclasses.replace(
        grades.policy, criterion=Prescribed(FROZEN_AT)
    )
    return grades


@pytest.mark.parametrize(
    "first_says", [pytest.param(True, marks=pytest.mark.long), False]
)
def test_both_rebuild_or_none(monkeypatch, first_says):
    """It goes by the time, which is not the same on both."""
    is_first = jax.process_index() == 0
    monkeypatch.setattr(
        RebuildPolicy, "is_due", lambda *_: first_says == is_first
    )
    grades = grades_for("auto")
    fit(build("both"), grades, steps=10)
    assert [c.frozen_at or 0 for c in grades.components] == FROZEN_AT
    is_rebuilt = len(grades.report.timing["compilations"]) > 1
    assert is_rebuilt == first_says


def test_a_run_goes_on_from_a_file(tmp_path):
    """Where each device has all, Keras saves it. One loss may be NaN."""
    path = tmp_path / "first_epoch.keras"

    class Saves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                trace = self.model.optimizer.state["trace"]
                trace.assign(trace * float("nan"))
                self.model.save(path)

    whole, model = grades_for("never"), build("data")
    fit(model, whole, Saves(), steps=4, epochs=2)
    resumed, loaded = grades_for("never"), keras.saving.load_model(path)
    fit(loaded, resumed, steps=4, epochs=2, initial_epoch=1)
    for grades in (whole, resumed):
        assert [c.frozen_at or 0 for c in grades.components] == FROZEN_AT
    for value, expected in zip(weights(loaded), weights(model)):
        np.testing.assert_allclose(value, expected, atol=1e-6)
