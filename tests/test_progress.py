"""What can be seen of a run while it goes on: in the logs, and in lines."""

import csv

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES

pytestmark = pytest.mark.alike

HUGE = 1e9


def fit(
    grades,
    *callbacks,
    optimizer=None,
    weight=1.0,
    blocks=2,
    batches=10,
    epochs=2,
):
    model = small.transformer(blocks)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, small.loss(), loss_weights=weight)
    return small.fit(model, grades, *callbacks, batches=batches, epochs=epochs)


class BatchLogs(keras.callbacks.Callback):
    """Keeps the logs of each batch."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({k: float(v) for k, v in logs.items()})


@pytest.mark.everywhere
@pytest.mark.parametrize("monitor", ["weight_change", "gradient"])
def test_the_statistic_is_in_the_logs_of_each_step(monitor):
    grades = GradES(1e-30, monitor=monitor, alpha=0, verbose=0)
    batches = BatchLogs()
    history = fit(grades, batches).history
    expected = grades.trace["statistic"].mean(axis=1)
    assert len(expected) == 20 and (expected > 0).all()
    found = [logs["statistic"] for logs in batches.logs]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        history["statistic"], expected[[9, 19]], rtol=1e-6
    )


def test_what_is_frozen_keeps_its_last_statistic():
    grades = GradES({"block_0": HUGE, "": 1e-30}, alpha=5, verbose=0)
    batches = BatchLogs()
    fit(grades, batches)
    # One row for each step, NaN where a component is frozen.
    values = grades.trace["statistic"]
    assert np.isnan(values[-1]).sum() == 6
    values[5:, np.isnan(values[-1])] = values[4, np.isnan(values[-1])]
    np.testing.assert_allclose(
        [logs["statistic"] for logs in batches.logs],
        values.mean(axis=1),
        rtol=1e-6,
    )


def test_it_is_zero_while_it_is_unknown(tmp_path):
    path = tmp_path / "log.csv"
    grades = GradES(horizon=36, verbose=0)
    history = fit(
        grades,
        keras.callbacks.CSVLogger(path),
        batches=30,
        epochs=4,
    ).history
    first = grades.trace["step"][np.isfinite(grades.trace["statistic"][:, 0])]
    assert first[0] == 81
    assert history["statistic"][:2] == [0, 0] and history["statistic"][2] != 0
    # Each epoch has all columns.
    assert len({len(values) for values in history.values()}) == 1
    with open(path) as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose(
        [float(row["statistic"]) for row in rows],
        history["statistic"],
        rtol=1e-6,
    )


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("share, stop", [(0.5, 7), (1.0, None)])
def test_it_says_when_it_will_stop(share, stop, capsys):
    # One block converges at step 5, and comes to rest two steps later.
    tau = {"block_0": HUGE, "": 1e-30}
    grades = GradES(tau, alpha=5, cooldown=2, max_frozen_ratio=share, verbose=1)
    fit(grades)
    _, *between, end = lines_of(capsys)
    assert grades.stopped_step == stop
    if stop:
        (line,) = between
        assert "settles from step 5 to 7 of 20; then fit() stops." in line
        assert "stopped at step 7 of 20" in end
    else:
        assert not between


def test_it_says_where_the_plan_ends_before(capsys):
    fit(GradES(HUGE, alpha=15, cooldown=10, verbose=1))
    _, line, end = lines_of(capsys)
    assert line.endswith(
        "settles from step 15 on, until step 25, and 20 are planned."
    )
    assert "ended at step 20 of 20, 0 of" in end
    assert end.endswith("frozen. Settling, to step 25, was cut short.")


def test_in_a_loop_of_fit_nothing_is_cut_short(capsys):
    grades = GradES(HUGE, alpha=12, cooldown=10, verbose=1)
    model = small.transformer()
    model.compile(keras.optimizers.Adam(0.01), small.loss())
    for epoch in range(3):
        arguments = {"initial_epoch": epoch, "epochs": epoch + 1}
        small.fit(model, grades, batches=10, **arguments)
    assert grades.stopped_step == 22
    assert "cut short" not in capsys.readouterr().out


def test_it_says_that_steps_were_skipped(capsys):
    """Loss scaling leaves out the first ones, and the end comes too early."""
    optimizer = keras.optimizers.SGD(5e-4)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, 2.0**125)
    fit(GradES(verbose=1), batches=30, optimizer=scaled, weight=100.0)
    _, _, end = lines_of(capsys)
    steps = int(optimizer.iterations)
    assert 48 < steps < 60
    assert f"ended at step {steps} of 60" in end
    assert end.endswith("by the plan. Settling, to step 60, was cut short.")


def test_it_says_that_nothing_could_freeze_yet(capsys):
    fit(GradES(HUGE, alpha=500, verbose=1))
    _, end = lines_of(capsys)
    assert end.endswith(
        "Nothing could freeze before step 500. Train longer, or choose a "
        "smaller `alpha`."
    )
    fit(GradES(HUGE, alpha=0, patience=50, verbose=1))
    _, end = lines_of(capsys)
    assert end.endswith("Nothing could freeze before step 51. Train longer.")


def test_it_says_so_of_the_default_too(capsys):
    grades = GradES(verbose=1)
    fit(grades, batches=30, epochs=2)
    _, line, end = lines_of(capsys)
    assert "settles from step 48 to 60 of 60; then fit() stops." in line
    assert end.startswith("GradES: ended at step 60 of 60")
    assert grades.stopped_step == 60


def test_it_says_nothing_of_the_sort_where_freezing_is_at_once(capsys):
    fit(GradES(HUGE, alpha=5, verbose=1))
    assert len(lines_of(capsys)) == 2


def test_a_line_for_each_block(capsys):
    tau = {"block_0": HUGE, "block_1_(up|down)": HUGE, "": 1e-30}
    fit(GradES(tau, alpha=5, verbose=2))
    assert lines_of(capsys)[1:-1] == [
        "GradES: by step 5 6 of 6 components frozen in block_0.",
        "GradES: by step 5 2 of 6 components frozen in block_1.",
    ]
