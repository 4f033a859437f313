"""What the devices send each other in a step, before and after a freeze.

    python examples/benchmarks/devices.py --devices 4

On JAX. It counts the bytes of the collective operations in the compiled train
step: without GradES, with it, and once every second component is frozen
structurally. `--devices` makes so many out of one CPU.
"""

import common  # It chooses the backend.

# isort: split
import contextlib
import math
import re

import jax
import keras
from keras.src.backend.jax import trainer

import keras_grades

FREEZE_AT, STEPS = 2, 5
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
# Each matrix of a BERT is shared as the heads and the hidden units are.
LAYOUTS = {
    ".*(query|key|value)/kernel": (None, "model", None),
    ".*attention_output/kernel": ("model", None, None),
    ".*intermediate_dense/kernel": (None, "model"),
    ".*intermediate_dense/bias": ("model",),
    ".*output_dense/kernel": ("model", None),
}


def main(argv=None):
    parser = common.parse_arguments(__doc__, rounds=1)
    parser.add_argument("--devices", type=int, help="to make of the CPU")
    parser.add_argument(
        "--parallel",
        nargs="+",
        choices=["data", "model"],
        default=["data", "model"],
        help="what is shared: batches only, or matrices, too",
    )
    parser.set_defaults(models=["wide"])
    args = parser.parse_args(argv)
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    rows = [
        measure(model, parallel)
        for model in args.models
        for parallel in args.parallel
    ]
    common.report("devices", rows, args.output)


def measure(name, parallel):
    keras.distribution.set_distribution(distribution(parallel))
    with compiled_steps() as plain:
        fit(common.compile_model(common.build(name)))
    model = common.compile_model(common.build(name))
    half = keras_grades.find_components(model)[::2]
    names = "|".join(re.escape(c.name) for c in half)
    grades = keras_grades.GradES(
        tau={f"^({names})$": 1e30, "": 1e-30},
        alpha=FREEZE_AT,
        recompile="always",
        verbose=0,
    )
    with compiled_steps() as steps:
        fit(model, grades)
    keras.distribution.set_distribution(None)
    sent = [total(text) for text in (*plain, *steps)]
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    return {
        "model": name,
        "parallel": parallel,
        "devices": jax.device_count(),
        "plain bytes": sent[0],
        "added bytes": sent[1] - sent[0],
        "half frozen bytes": sent[2],
        "ratio": sent[2] / sent[0],
        "parameters left": 1 - sum(c.size for c in half) / parameters,
    }


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


def fit(model, *callbacks):
    model.fit(
        common.batches(),
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[*callbacks],
    )


@contextlib.contextmanager
def compiled_steps():
    """A list, to which the text of each compiled step of Keras is added."""
    texts, jit = [], trainer.jit

    def recording_jit(function, **arguments):
        jitted, made = jit(function, **arguments), []

        def call(*values):
            if not made:
                made.append(jitted.lower(*values).compile())
                texts.append(made[0].as_text())
            return made[0](*values)

        return call

    trainer.jit = recording_jit
    try:
        yield texts
    finally:
        trainer.jit = jit


def collectives(text):
    """Lists of bytes, by the kind of the collective operation."""
    found = {}
    for types, kind in re.findall(rf" = (.*?) ({KINDS})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", types):
            bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
            entries = math.prod(map(int, filter(None, shape.split(","))))
            found.setdefault(kind, []).append(bits // 8 * entries)
    return found


def total(text):
    return sum(sum(sizes) for sizes in collectives(text).values())


if __name__ == "__main__":
    main()
