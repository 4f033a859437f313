"""PyTorch: two processes with one model, by `DistributedDataParallel`.

`test_devices.py` runs it in both of them, with `PROCESS` 0 and 1, and a
`PORT` for them to meet at. Where they part they wait for each other in vain.
"""

import importlib
import os
import pathlib
import sys
import warnings

import keras
import numpy as np
import pytest
import small
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_grades
from keras_grades import GradES
from keras_grades.rebuild.decision import RebuildPolicy

BENCHMARKS = pathlib.Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
devices = importlib.import_module("devices_torch")

RANK = int(os.environ["PROCESS"])
BATCH, STEPS = 8, 12
HUGE, TINY = 1e30, 1e-30
TAU = {"query|value|up": HUGE, "": TINY}


@pytest.fixture(autouse=True, scope="session")
def _meet():
    address = f"tcp://localhost:{os.environ['PORT']}"
    distributed.init_process_group("gloo", address, world_size=2, rank=RANK)
    yield
    distributed.destroy_process_group()


class InKeras316(keras.Model):
    """What Keras does from 3.16 on, for tests with an earlier one."""

    ddp_model = None

    def _initialize_ddp(self):
        if self.ddp_model is None:
            made = DistributedDataParallel(self, find_unused_parameters=False)
            object.__setattr__(self, "ddp_model", made)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self._initialize_ddp()
            super().make_train_function(force)

    def train_step(self, data):
        x, y = data
        replicas = self.ddp_model or self
        y_pred = replicas(x, training=True)
        replicas.zero_grad()
        loss = self._compute_loss(x=x, y=y, y_pred=y_pred, training=True)
        self._loss_tracker.update_state(loss)
        loss.backward()
        variables = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        return self.compute_metrics(x, y, y_pred)


HAS_DDP = hasattr(keras.Model, "_initialize_ddp")


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), small.loss())
    return model


def build(rate=0.01):
    layers = small.transformer(blocks=1)
    kind = keras.Model if HAS_DDP else InKeras316
    return compiled(kind(layers.inputs, layers.outputs), rate)


def data(steps=STEPS, ranks=2):
    """This rank's part of each batch, or all of it."""
    x, y = small.turning(steps, 80, BATCH)
    if ranks == 1:
        return x, y, BATCH
    mine = np.arange(len(x)) % BATCH // (BATCH // 2) == RANK
    return x[mine], y[mine], BATCH // 2


def fit(model, *callbacks, ranks=2, steps=STEPS, **arguments):
    x, y, size = data(steps, ranks)
    arguments = {"verbose": 0, "shuffle": False, **arguments}
    model.fit(x, y, size, callbacks=[*callbacks], **arguments)


def check_equal(model, *more):
    """All variables are the same on both ranks."""
    for variable in [*model.variables, *model.optimizer.variables, *more]:
        value = variable.value.detach().contiguous()
        found = [torch.empty_like(value) for _ in range(2)]
        distributed.all_gather(found, value)
        # The ranks have different losses.
        if "mean_metric" not in variable.path and "loss" not in variable.path:
            assert torch.equal(*found), variable.path


def frozen_at(grades):
    return [c.frozen_at for c in grades.components]


class Listens(keras.callbacks.Callback):
    """To what Keras's own `DistributedDataParallel` sends."""

    def __init__(self):
        super().__init__()
        self.bytes = [0]
        self._to = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.ddp_model is not self._to:
            self._to = self.model.ddp_model
            devices.count(self._to, self.bytes)
        self.bytes.append(0)


def size(variables):
    return sum(v.value.nbytes for v in variables)


@pytest.mark.parametrize(
    ("monitor", "steps", "rate"),
    [
        ("gradient", 40, 0.01),
        pytest.param("gradient_change", 40, 0.01, marks=pytest.mark.long),
        pytest.param("weight_change", 40, 0.01, marks=pytest.mark.long),
        pytest.param("relative_change", 40, 0.01, marks=pytest.mark.long),
        ("transfer", 200, 0.03),
    ],
)
def test_decisions_of_one_process(monitor, steps, rate):
    """And each variable is the same on both ranks."""
    settings = {
        "monitor": monitor,
        "alpha": 5,
        "recompile": "always",
        **small.MONITORS[monitor],
    }
    alone, grades = (GradES(**settings, verbose=0) for _ in range(2))
    expected = compiled(small.transformer(blocks=1), rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It trains by itself, as is wanted.
        fit(expected, alone, ranks=1, steps=steps)
    model = build(rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, grades, steps=steps)
    assert frozen_at(grades) == frozen_at(alone)
    assert any(5 <= (step or 0) < steps - 3 for step in frozen_at(grades))
    for value, other in zip(small.weights(model), small.weights(expected)):
        np.testing.assert_allclose(value, other, atol=1e-5)
    check_equal(model)


def test_what_is_frozen_is_not_sent():
    grades = GradES(TAU, alpha=4, recompile="always", verbose=0)
    model, listens = build(), Listens()
    fit(model, grades, listens)
    frozen = [v for c in grades.components if c.frozen_at for v in c.variables]
    everything = size(model.trainable_variables)
    rest = everything - size(frozen)
    assert len(frozen) > 3 and everything > rest
    assert listens.bytes[1:] == 4 * [everything] + (STEPS - 4) * [rest]


def test_a_freeze_before_the_last_step():
    """What was left of its buckets would be reduced at the next step."""
    grades = GradES(TAU, alpha=STEPS - 1, recompile="always", verbose=0)
    model = build()
    fit(model, grades)
    assert set(frozen_at(grades)) == {STEPS - 1, None}
    assert len(grades.report.timing["compilations"]) == 2
    check_equal(model)


@pytest.mark.parametrize("with_grades", [False, True])
def test_a_second_fit_reduces_all_again(with_grades):
    grades, model = GradES(TAU, alpha=2, recompile="always", verbose=0), build()
    fit(model, grades)
    assert set(frozen_at(grades)) == {2, None}
    before, callbacks = small.weights(model), []
    if with_grades:
        callbacks = [GradES(TINY, alpha=2, verbose=0)]
    fit(model, *callbacks)
    check_equal(model)
    moved = map(np.any, map(np.not_equal, before, small.weights(model)))
    assert all(moved)


@pytest.mark.parametrize("first_says", [True, False])
def test_both_rebuild_or_none(monkeypatch, first_says):
    """It goes by the time, which is not the same on both."""
    monkeypatch.setattr(
        RebuildPolicy, "is_due", lambda *_: first_says == (RANK == 0)
    )
    grades = GradES(TAU, alpha=2, verbose=0)
    fit(build(), grades)
    is_rebuilt = len(grades.report.timing["compilations"]) > 1
    assert is_rebuilt == first_says


def test_ranks_that_part_are_told():
    """As on unlike hardware, at a threshold."""
    grades = GradES(HUGE if RANK else TINY, alpha=2, verbose=0)
    with pytest.raises(RuntimeError, match="frozen different matrices"):
        fit(build(), grades)


@pytest.mark.skipif(HAS_DDP, reason="this Keras trains one model")
def test_models_of_their_own():
    """As Keras does before 3.16, or with a step of the user's own."""
    grades = GradES(TAU, alpha=2, recompile="always", verbose=0)
    model = small.transformer(blocks=1)
    model.compile("sgd", small.loss())
    flags = small.At(STEPS - 1, lambda m: seen.append(len(m.trainable_weights)))
    seen = []
    with pytest.warns(UserWarning, match="There are 2 processes") as caught:
        fit(model, grades, flags)
    assert sum("processes" in str(w.message) for w in caught) == 1
    assert set(frozen_at(grades)) == {2, None}
    assert seen == [len(model.trainable_weights)]


def test_a_loop_of_your_own():
    """Logical freezes, and structural ones with one call, as on one rank."""
    results = []
    for ranks, calls in ((1, False), (2, False), (2, True)):
        model, sent = small.transformer(blocks=1), []
        optimizer = keras_grades.GradESOptimizer(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras_grades.find_components(model),
            TAU,
            alpha=STEPS // 2,
        )
        optimizer.build(model.trainable_variables)
        model.optimizer = optimizer
        loss_of = small.loss()

        def wrapped(model=model, sent=sent, ranks=ranks):
            if ranks == 1:
                return model
            replicas = DistributedDataParallel(model)
            devices.count(replicas, sent)
            return replicas

        replicas = wrapped()
        for x, y in small.batches(*data(ranks=ranks)):
            sent.append(0)
            replicas.zero_grad()
            x, y = map(keras.ops.convert_to_tensor, (x, y))
            loss_of(y, replicas(x)).backward()
            variables = model.trainable_variables
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables)
            if calls and optimizer.freeze_structurally():
                replicas = wrapped()
        if ranks == 2:
            check_equal(model)
        results.append((model, sent, optimizer))
    (alone, *_), (logical, whole, _), (structural, less, optimizer) = results
    for value, same, other in zip(
        *map(small.weights, (logical, structural, alone))
    ):
        np.testing.assert_array_equal(value, same)
        np.testing.assert_allclose(value, other, atol=1e-6)
    frozen = [c for c in optimizer.components if not c.variables[0].trainable]
    saved = size([v for c in frozen for v in c.variables])
    assert len(frozen) == 3 and whole[0] == whole[-1]
    assert less == whole[: STEPS // 2] + [
        each - saved for each in whole[STEPS // 2 :]
    ]


def test_spread_parameters_are_refused():
    from torch.distributed.fsdp import fully_shard

    model = small.transformer(blocks=1)
    model.compile("sgd", small.loss())
    grades = GradES(TAU, alpha=2, verbose=0)
    grades.set_model(model)
    grades.set_params({"epochs": 1, "steps": STEPS})
    fully_shard(model)
    with pytest.raises(ValueError, match="`DTensor`"):
        grades.on_train_begin()
