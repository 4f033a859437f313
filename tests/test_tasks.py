"""The comparison on real tasks: what it reads off, keeps and concludes."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from markers import long_on

pytestmark = pytest.mark.alike

BENCHMARKS = pathlib.Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tasks

    return tasks


@pytest.fixture
def methods(tasks):
    import task_methods

    return task_methods


@pytest.fixture
def task(tasks):
    """The smallest: two epochs of a small Transformer on images of digits."""
    return tasks.QUICK["small digits"].quick(96, 2)


def test_early_stopping_is_read_off(methods):
    """Against `EarlyStopping` in a `fit()` with the same losses."""
    losses = [5.0, 3.0, 4.0, 2.0, 2.5, 2.5, 2.5, 1.0]
    assert methods.replay(losses, "loss", 1) == (2, 1)
    assert methods.replay(losses, "loss", 3) == (6, 3)
    assert methods.replay(losses[:3], "loss", 3) == (2, 1)
    accuracies = [0.5, 0.7, 0.6, 0.8, 0.8, 0.7, 0.75, 0.9]
    assert methods.replay(accuracies, "accuracy", 1) == (2, 1)
    assert methods.replay(accuracies, "accuracy", 3) == (6, 3)


@long_on("tensorflow")
def test_without_grades_it_is_early_stopping_in_fit(methods, task):
    task = dataclasses.replace(
        task, learning_rate=0.005, decay="none", epochs=12
    )
    (x, y), (images, labels), test = task.load(task.examples)
    # The wrong ones: the more is learned, the higher the loss there. So the
    # best weights are not the last.
    validation = images, (labels + 1) % 10
    data = (x, y), validation, test
    results = methods.without_grades(task, data, 0)
    keras.utils.set_random_seed(0)
    model = task.compiled()
    model.fit(
        x,
        y,
        task.batch_size,
        epochs=task.epochs,
        verbose=0,
        validation_data=validation,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
        ],
    )
    expected = methods.tested(model, test)
    stopped = results["early stopping, 1"]
    assert stopped["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    plain = results["plain"]
    assert plain["loss"] != stopped["loss"]
    assert plain["steps"] == task.steps
    assert plain["seconds"] > 0


def test_controls_are_as_long_as_they_say(tasks, methods, task):
    task = task.quick(96, 10)
    done = {
        "plain": {"seconds": 52.0, "compilation": 2.0},  # 5 seconds an epoch.
        "early stopping, 3": {"seconds": tasks.FASTER * 33},
        "auto": {"steps": 3.4 * task.steps / 10},
    }
    wanted, auto = "plain, in the wanted time", "plain, as long as auto"
    assert tasks.epochs_of_control(wanted, task, done) == 6
    assert tasks.epochs_of_control(auto, task, done) == 3
    done["early stopping, 3"] = {"seconds": 1.0}
    assert tasks.epochs_of_control(wanted, task, done) == 1
    result = methods.shorter_schedule(task, task.load(task.examples), 0, 2)
    assert result["steps"] == 2 * 96 // task.batch_size


def test_the_tuned_tau_is_the_fastest_that_is_good_enough(tasks, monkeypatch):
    tried = {
        0.1: {"val_accuracy": 0.900, "seconds": 9.0},
        0.2: {"val_accuracy": 0.896, "seconds": 5.0},
        0.3: {"val_accuracy": 0.890, "seconds": 3.0},
    }
    probe = {"taus": list(tried), "seconds": 10.0}
    monkeypatch.setattr(tasks.methods, "thresholds", lambda *args: probe)
    monkeypatch.setattr(
        tasks.methods,
        "with_tau",
        lambda task, data, seed, tau: {
            **tried[tau],
            "tau": tau,
            "validation": 1.0,
        },
    )

    class Store:
        def get(self, name, run):
            return run()

    assert tasks.tune(None, None, Store(), 0) == (0.2, 10 + 17 + 3)


def test_fixed_schedule_freezes_from_below(methods, task, monkeypatch):
    given = []

    def with_grades(*arguments, freeze_steps, **options):
        given.extend(freeze_steps)
        return None, None, {}

    monkeypatch.setattr(methods, "with_grades", with_grades)
    methods.fixed_schedule(task, None, 0)
    # Three blocks of six matrices, in the second half of the steps.
    steps = task.steps
    expected = [steps * (0.5 + 0.5 * (i + 1) / 3) for i in range(3)]
    assert given == pytest.approx(np.repeat(expected, 6))


def test_it_goes_on_where_it_was(tasks, task, tmp_path, monkeypatch):
    store = tasks.Store(tmp_path).of("topics, LoRA", task)
    assert store.get("auto-0", lambda: {"seconds": 1.5}) == {"seconds": 1.5}
    assert store.get("auto-0", pytest.fail) == {"seconds": 1.5}

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("auto-1", interrupted)
    found = sorted(p.name for p in tmp_path.rglob("*.*"))
    assert found == ["auto-0.json", "settings.json"]
    with pytest.raises(ValueError, match="of other settings, code or machine"):
        tasks.Store(tmp_path).of("topics, LoRA", task.quick(64, 2))
    monkeypatch.setattr(tasks, "code", lambda: "other")
    with pytest.raises(ValueError, match="of other settings, code or machine"):
        tasks.Store(tmp_path).of("topics, LoRA", task)
    monkeypatch.undo()
    monkeypatch.setattr(tasks.common, "machine", lambda: {"cpu": "another"})
    with pytest.raises(ValueError, match="of other settings, code or machine"):
        tasks.Store(tmp_path).of("topics, LoRA", task)


def result(seconds, accuracy):
    return {
        "seconds": seconds,
        "accuracy": accuracy,
        "loss": 1.0,
        "steps": 10,
        "frozen": 1.0,
        "compilation": 1.0,
    }


def test_what_it_concludes(tasks):
    results = {
        "plain": [result(10, 0.9), result(10, 0.92)],
        "early stopping, 1": [result(5, 0.8), result(5, 0.8)],
        "early stopping, 3": [result(12, 0.9), result(8, 0.9)],
        "fixed schedule": [result(9, 0.9), result(9, 0.9)],
        "tuned tau": [{**result(9, 0.9), "tuning": 30.0}] * 2,
        "auto": [result(6, 0.91), result(4, 0.9)],
    }
    rows = {r["method"]: r for r in tasks.summarize("t", results)}
    assert rows["auto"]["times faster"] == pytest.approx(2.0)
    assert rows["auto"]["of plain, points"] == pytest.approx(-0.5)
    assert rows["auto"]["worst"] == pytest.approx(-2)
    assert rows["tuned tau"]["tuning s"] == 30.0
    assert tasks.is_on_front(rows)
    slower = {**rows, "tuned tau": {**rows["auto"], "accuracy": 0.95}}
    assert not tasks.is_on_front(slower)
    first, second, third = tasks.verdict({"t": results})
    assert "1 of 1 tasks (t 2.00)" in first
    assert "0.50 on average" in second and "2.00 at worst" in second
    assert "1 of 1 tasks" in third


@long_on("tensorflow")
def test_conditions(tasks, monkeypatch, tmp_path, task):
    import conditions

    monkeypatch.setattr(conditions, "TASK", task)
    monkeypatch.setattr(
        conditions, "CONDITIONS", {"3 epochs, cooldown": {"epochs": 3}}
    )
    conditions.CONDITIONS["3 epochs, cooldown"]["grades"] = {"cooldown": 0.1}
    used = []
    auto = conditions.methods.auto
    monkeypatch.setattr(
        conditions.methods,
        "auto",
        lambda *args, **kwargs: used.append(kwargs) or auto(*args, **kwargs),
    )
    conditions.main(["--seeds=0", f"--output={tmp_path}"])
    assert used == [{"cooldown": 0.1}]
    path = tmp_path / f"conditions_{keras.backend.backend()}.json"
    rows = json.loads(path.read_text())["rows"]
    assert [r["method"] for r in rows] == list(conditions.SHOWN)
    assert {r["of"] for r in rows} == {3 * 96 // task.batch_size}


def test_conditions_change_what_they_say(tasks, task):
    import conditions

    x = np.arange(12, dtype="float32")[:, None]
    y = np.arange(12)
    data = conditions.Alternating(x, y, 4)
    for sign in (1, -1, 1):
        batches = [data[i] for i in range(len(data))]
        seen = np.concatenate([labels for _, labels in batches])
        assert sorted(seen) == list(y) and list(seen) != list(y)
        values = np.concatenate([images for images, _ in batches])[:, 0]
        np.testing.assert_array_equal(values, seen if sign > 0 else 1 - seen)
        data.on_epoch_end()
    (_, right), *_ = task.load(1000)
    noisy, *others = conditions.load_mislabeled(1000)
    assert 0.17 < (noisy[1] != right).mean() < 0.23
    np.testing.assert_array_equal(others[0][1], task.load(1000)[1][1])


@long_on("tensorflow")
def test_presets(tasks, monkeypatch, tmp_path):
    """They keep the optimizer that KerasHub compiled them with."""
    import presets

    monkeypatch.setattr(presets, "EPOCHS", (1,))
    name = "ViT, random, MNIST"
    optimizer = presets.PRESETS[name].compiled().optimizer
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert float(optimizer.learning_rate) == pytest.approx(5e-5)
    presets.main(["--quick", "--presets", name, f"--output={tmp_path}"])
    path = tmp_path / f"presets_quick_{keras.backend.backend()}.json"
    rows = json.loads(path.read_text())["rows"]
    assert [r["method"] for r in rows] == ["plain", "auto"]
    assert [r["steps"] for r in rows] == [2, 2]
    assert [r["frozen"] for r in rows] == [0, 1]


@pytest.mark.long
def test_the_command(tasks, monkeypatch, tmp_path, task):
    monkeypatch.setattr(tasks, "QUICK", {"small digits": task})
    tasks.main(["--quick", "--tasks", "small digits", f"--output={tmp_path}"])
    backend = keras.backend.backend()
    written = json.loads((tmp_path / f"tasks_quick_{backend}.json").read_text())
    assert [row["method"] for row in written["rows"]] == [
        "plain",
        "early stopping, 1",
        "early stopping, 3",
        "early stopping on accuracy, 1",
        "early stopping on accuracy, 3",
        "fixed schedule",
        "tuned tau",
        "auto",
        "plain, in the wanted time",
        "plain, as long as auto",
    ]
    assert all(row["seconds"] > 0 for row in written["rows"])
    assert (tmp_path / f"tasks_quick_{backend}.png").exists()


def test_the_command_at_a_constant_rate(tasks, monkeypatch, tmp_path, task):
    seen = []

    def compare(task, store, seeds, names):
        seen.append((task.decay, seeds, names))
        run = {"seconds": 1.0, "steps": 1, "compilation": 0.1, "frozen": 0.0}
        run |= {"accuracy": 0.5, "loss": 1.0}
        methods = ["plain", *tasks.methods.EARLY_STOPPING, *names]
        return {method: [run] for method in methods}

    monkeypatch.setattr(tasks, "compare", compare)
    monkeypatch.setattr(tasks, "warm_up", lambda: None)
    monkeypatch.setattr(tasks, "TASKS", {"small digits": task})
    tasks.main(
        ["--constant", "--tasks", "small digits", "--methods", "auto"]
        + [f"--output={tmp_path}"]
    )
    assert seen == [("none", [0, 1, 2], ["auto"])]
    backend = keras.backend.backend()
    assert (tmp_path / f"tasks_constant_{backend}.json").exists()


def rows_of(script, folder):
    """What a script reports on the small digits, with one seed."""
    script.main(
        ["--tasks", "small digits", "--seeds", "0", f"--output={folder}"]
    )
    path = folder / f"{script.__name__}_{keras.backend.backend()}.json"
    return json.loads(path.read_text())["rows"]


@long_on("tensorflow")
def test_settled(tasks, monkeypatch, tmp_path, task):
    import settled

    monkeypatch.setattr(settled, "TASKS", {"small digits": task})
    monkeypatch.setattr(settled, "SHARES", (0.5, 1.0))
    rows = rows_of(settled, tmp_path)
    assert [row["plan"] for row in rows] == ["constant"] + ["settled"] * 2
    steps = [row["steps"] for row in rows]
    assert steps[0] == steps[2] == task.steps > steps[1]
    assert all(0 <= row["validated"] <= 1 for row in rows)


def test_the_step_at_which_grades_would_begin(tasks):
    from settled import first_below

    steps = range(10, 20)
    # Below from the start on is not below again.
    assert first_below(steps, [-1.0] * 10, 1) is None
    values = [np.inf, -1, -1, 1, 1, -1, 1, -1, -1, -1]
    assert first_below(steps, values, 1) == 18
    assert first_below(steps, values, 2) == 19
    assert first_below(steps, values, 3) is None


@long_on("jax", "tensorflow")
def test_stagger(tasks, monkeypatch, tmp_path, task):
    import settled
    import stagger

    from keras_grades import actions

    chosen = actions.FIRST_AT_REST
    monkeypatch.setattr(settled, "TASKS", {"small digits": task})
    monkeypatch.setattr(stagger, "SHARES", (0.0, 1.0))
    rows = rows_of(stagger, tmp_path)
    assert chosen == actions.FIRST_AT_REST
    settings = [(r["lowest freezes at"], r["truncated"]) for r in rows]
    assert settings == [(0, False), (0, True), (1, False), (1, True)]
    frozen = [row["work frozen"] for row in rows]
    # With more than its matrices more work is gone; together, none before.
    assert frozen[1] > frozen[0] > frozen[2] == frozen[3] == 0
    assert all(0 <= row["validated"] <= 1 for row in rows)


def test_criteria_say_when(tasks):
    import criteria

    statistic = np.ones((100, 2))
    statistic[40:, 0] = 0
    assert criteria.crossings(statistic, 0.5).tolist() == [50, np.inf]


@long_on("jax", "tensorflow")
def test_criteria_of_noise_and_of_a_signal(tasks):
    import criteria

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((400, 1, 512))
    signal = np.ones((400, 1, 512))
    weights = np.cumsum(np.concatenate([noise[:1], noise]), axis=0)
    line = np.cumsum(np.concatenate([signal[:1], signal]), axis=0)

    def seen(gradients, weights):
        changes = np.abs(np.diff(weights, axis=0)).mean(-1)
        return criteria.Seen(gradients, weights, changes)

    of_noise, of_signal = seen(noise, weights), seen(signal, line)
    last = {
        f.__name__: (f(of_noise)[-1, 0], f(of_signal)[-1, 0])
        for f in criteria.CRITERIA
    }
    assert last["signal_to_noise"] == pytest.approx((1.0, 39.0), rel=0.1)
    assert last["cosine"] == pytest.approx((0.0, 1.0), abs=0.02)
    assert last["displacement"] == pytest.approx((0.5, 1.0), abs=0.1)
    for name in (
        "gradient_of_peak",
        "change_of_peak",
        "relative_change",
        "relative_change_of_all",
    ):
        assert last[name] == pytest.approx((1.0, 1.0), abs=0.2)


def test_matrices_are_paired_with_the_authors(tasks):
    import authors

    class Component:
        def __init__(self, block, role, frozen_at):
            self.block, self.role, self.frozen_at = block, role, frozen_at

    ours = [Component("a", "query", 3), Component("b", "ffn_down", None)]
    theirs = {"layer_00_attn_q_proj": 3, "layer_01_mlp_down_proj": 7}
    assert authors.paired(ours, theirs) == [(3, 3), (None, 7)]
