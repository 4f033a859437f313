"""Half precision: the statistic is in float32, and frozen is frozen."""

import keras
import numpy as np
import pytest
import reference
import small

import keras_grades
from keras_grades import GradES
from keras_grades import masking
from keras_grades.backend import backend
from keras_grades.groups import Groups

BATCHES = 6
TAU = {"block_0": 1e30, "": 1e-30}


@pytest.fixture(
    params=[
        "mixed_bfloat16",
        "mixed_float16",
        pytest.param("bfloat16", marks=pytest.mark.long),
    ]
)
def model(request):
    if request.param == "mixed_float16" and keras.backend.backend() == "jax":
        pytest.skip("JAX does not multiply float16 on a CPU")
    keras.config.set_dtype_policy(request.param)
    yield small.transformer()
    keras.config.set_dtype_policy("float32")


def fit(model, *callbacks):
    x, y = small.data(BATCHES)
    model.fit(x, y, 4, shuffle=False, callbacks=list(callbacks), verbose=0)


def test_statistic_is_of_the_unscaled_gradient(model):
    components = keras_grades.find_components(model)
    x, y = small.data(BATCHES)
    variables = model.trainable_variables
    grads = reference.gradients(model, variables, x[:4], y[:4], small.loss())
    gradient_of = {id(v): reference.numpy(g) for v, g in zip(variables, grads)}
    expected = [
        reference.NORMS["l1"]([gradient_of[id(v)] for v in c.variables])
        for c in components
    ]
    model.compile(keras.optimizers.Adam(0.01), small.loss())
    grades = GradES(1e-30, verbose=0)
    fit(model, grades)
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (model.dtype_policy.name == "mixed_float16")
    # A bfloat16 has eight bits; what is fused is rounded less often.
    np.testing.assert_allclose(
        grades.trace["statistic"][0], expected, rtol=0.05
    )


@pytest.mark.parametrize(
    "recompile", ["never", pytest.param("always", marks=pytest.mark.long)]
)
def test_frozen_is_frozen(model, recompile):
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.5)
    model.compile(optimizer, small.loss())
    grades = GradES(TAU, alpha=2, recompile=recompile, verbose=0)
    values = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert self.model is not None  # Up to date on JAX.
            values.append(
                [
                    keras.ops.convert_to_numpy(
                        keras.ops.cast(c.variables[0], "float32")
                    ).copy()
                    for c in grades.components
                ]
            )

    fit(model, grades, Look())
    frozen = [c.frozen_at == 2 for c in grades.components]
    assert frozen == [True] * 6 + [False] * 6
    for i, is_frozen in enumerate(frozen):
        moved = not np.array_equal(values[1][i], values[-1][i])
        assert moved != is_frozen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_sums_are_in_float32(dtype, norm):
    """A sum of ones in bfloat16 would end at 256."""
    ones = keras.ops.ones((300, 300), dtype)
    (value,) = keras.ops.convert_to_numpy(backend.norms([ones], norm))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, 90000 if norm == "l1" else 300)


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="of PyTorch, on a GPU"
)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_norms_at_once(norm):
    from keras_grades.backend import torch as torch_backend

    arrays = [np.float32([[1, -2], [3, 4]]), np.float16([5, -6])]
    tensors = [keras.ops.convert_to_tensor(a) for a in arrays]
    np.testing.assert_allclose(
        torch_backend.norms_at_once(tensors, norm),
        [reference.NORMS[norm]([a.astype("float32")]) for a in arrays],
    )


@pytest.mark.long
def test_half_precision_is_saved_and_resumed(model, tmp_path):
    def run(model, *callbacks, epochs=2, **arguments):
        grades = GradES(
            1e30, alpha=3, patience=5, monitor="gradient_change", verbose=0
        )
        x, y = small.data(BATCHES)
        model.fit(
            x,
            y,
            4,
            epochs=epochs,
            shuffle=False,
            callbacks=[grades, *callbacks],
            verbose=0,
            **arguments,
        )
        return grades

    model.compile(keras.optimizers.Adam(0.01), small.loss())
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    whole = run(model, checkpoint)
    assert whole.stopped_step == 7
    loaded = keras.saving.load_model(tmp_path / "1.keras")
    resumed = run(loaded, initial_epoch=1)
    assert resumed.stopped_step == 7
    np.testing.assert_allclose(
        resumed.trace["statistic"], whole.trace["statistic"][-1:], rtol=0.05
    )


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has no float64 by default"
)
def test_a_cooldown_is_as_exact_as_the_weights():
    start, end = 1 / 3, 1 / 3 + 1e-12
    variable = keras.Variable(np.array([start]), dtype="float64")
    held, _ = masking.hold(
        [keras.ops.zeros(1)],
        [variable],
        Groups([], [], with_others=True),
        frozen=keras.ops.convert_to_tensor([False]),
        share=keras.ops.convert_to_tensor([0.25]),
        zero=False,
    )
    variable.assign(np.array([end]))
    masking.put_back(held)
    moved = float(variable.numpy()[0]) - start
    assert moved == pytest.approx(0.25 * (end - start), rel=1e-3, abs=0)
