"""A model that is spread over four devices: what tests of that share."""

import collections
import re

import jax
import keras
import numpy as np
import small
from jax.experimental import multihost_utils
from small import MONITORS

from keras_grades import GradES

WIDTH, HIDDEN, BATCH = 32, 128, 8
HUGE, TINY = 1e30, 1e-30
GRACE = 5
STEPS = collections.defaultdict(lambda: 40, transfer=190)
LAYOUTS = {
    "data": {},
    "model": {
        "(query|key|value)/kernel": (None, "model", None),
        "attention_output/kernel": ("model", None, None),
        "up/kernel": (None, "model"),
        "up/bias": ("model",),
        "down/kernel": ("model", None),
    },
    "both": {
        "(query|key|value)/kernel": ("batch", "model", None),
        "attention_output/kernel": ("model", None, "batch"),
        "up/kernel": ("batch", "model"),
        "up/bias": ("model",),
        "down/kernel": ("model", "batch"),
    },
}


def distribution(arrangement):
    """One that a user would make, or `None` for one device."""
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 4
    if arrangement is None:
        return None
    if arrangement == "data":
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    for end, layout in LAYOUTS[arrangement].items():
        layout_map[f".*{end}"] = layout
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )


def build(arrangement):
    """A compiled model whose variables are where the layouts say."""
    keras.distribution.set_distribution(distribution(arrangement))
    model = small.transformer(blocks=1, width=WIDTH, hidden=HIDDEN)
    for variable in model.trainable_variables:
        if "kernel" in variable.path:
            variable.assign(variable / 2)  # It is wider than others.
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, small.loss())
    layouts = LAYOUTS.get(arrangement, {})
    matched = set()
    for variable in model.variables:
        layout = (None,) * len(variable.shape)
        for end, given in layouts.items():
            if re.search(f"{end}$", variable.path):
                layout = given
                matched.add(end)
        if arrangement is not None:
            assert tuple(variable.value.sharding.spec) == layout
    assert matched == layouts.keys()
    return model


def shardings(model):
    """Of all weights, and of the slots of the optimizer."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = model.variables + optimizer.variables
    return {v.path: v.value.sharding for v in variables}


def fit(model, *callbacks, steps, epochs=1, initial_epoch=0, validation=None):
    x, y = small.turning(steps, 80, BATCH, WIDTH)
    data = {"x": x, "y": y, "batch_size": BATCH}
    distribution = keras.distribution.distribution()
    if distribution is not None and jax.process_count() > 1:
        # Of this Keras gives each process its part, of unknown length.
        from tensorflow.data import Dataset

        examples = Dataset.from_tensor_slices((x, y))
        data = {"x": examples.batch(BATCH).repeat(), "steps_per_epoch": steps}
    model.fit(
        **data,
        epochs=epochs,
        initial_epoch=initial_epoch,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks],
    )


def train(arrangement, monitor, recompile="never"):
    """Steps of freezing, statistics and weights at the end."""
    model = build(arrangement)
    before = shardings(model)
    grades = GradES(
        monitor=monitor,
        alpha=GRACE,
        recompile=recompile,
        verbose=0,
        **MONITORS[monitor],
    )
    fit(model, grades, steps=STEPS[monitor])
    assert shardings(model) == before
    frozen_at = [c.frozen_at for c in grades.components]
    return frozen_at, grades.trace["statistic"], weights(model)


def weights(model):
    """All of them, also what other processes have."""
    values = [v.value for v in model.variables]
    return [
        np.copy(v)
        if v.is_fully_addressable or v.is_fully_replicated
        else multihost_utils.process_allgather(v, tiled=True)
        for v in values
    ]
