"""`devices.py` on JAX: `keras.distribution`."""

import contextlib
import math
import re

import common
import jax
import keras
from keras.src.backend.jax import trainer

# What may be shared: batches only, or matrices, too.
PARALLEL = ("data", "model")
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
# Each matrix of a BERT is shared as the heads and the hidden units are.
LAYOUTS = {
    ".*(query|key|value)/kernel": (None, "model", None),
    ".*attention_output/kernel": ("model", None, None),
    ".*intermediate_dense/kernel": (None, "model"),
    ".*intermediate_dense/bias": ("model",),
    ".*output_dense/kernel": ("model", None),
}


def make(count):
    """Makes so many devices out of one CPU."""
    jax.config.update("jax_num_cpu_devices", count)


def sent(task, parallel):
    """Bytes in the collective operations of compiled train steps.

    Args:
        task: `devices.Task`.
        parallel: String, one of `PARALLEL`.

    Returns:
        Integer, the number of devices, and a list of the bytes in a step:
        plain, with GradES, and with half of the components frozen.
    """
    keras.distribution.set_distribution(distribution(parallel))
    try:
        with compiled_steps() as plain:
            task.fit(task.build(), common.batches())
        model = task.build()
        with compiled_steps() as steps:
            task.fit(model, common.batches(), task.half_frozen(model))
    finally:
        keras.distribution.set_distribution(None)
    return jax.device_count(), [total(step) for step in (*plain, *steps)]


def distribution(parallel):
    devices = keras.distribution.list_devices()
    if parallel == "data":
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(
        (len(devices) // 2, 2), ("batch", "model"), devices
    )
    layout_map = keras.distribution.LayoutMap(mesh)
    for path, layout in LAYOUTS.items():
        layout_map[path] = layout
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )


@contextlib.contextmanager
def compiled_steps():
    """A list, to which each compiled step of Keras is added."""
    steps, jit = [], trainer.jit

    def recording_jit(function, **arguments):
        jitted, made = jit(function, **arguments), []

        def call(*values):
            if not made:
                made.append(jitted.lower(*values).compile())
                steps.append(made[0])
            return made[0](*values)

        return call

    trainer.jit = recording_jit
    try:
        yield steps
    finally:
        trainer.jit = jit


def collectives(step):
    """Lists of bytes, by the kind of the collective operation."""
    found, text = {}, step.as_text()
    for types, kind in re.findall(rf" = (.*?) ({KINDS})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", types):
            bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
            entries = math.prod(map(int, filter(None, shape.split(","))))
            found.setdefault(kind, []).append(bits // 8 * entries)
    return found


def total(step):
    return sum(sum(sizes) for sizes in collectives(step).values())
