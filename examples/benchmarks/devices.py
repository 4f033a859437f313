"""What the devices send each other in a step, before and after a freeze.

    python examples/benchmarks/devices.py --devices 4
    KERAS_BACKEND=torch python examples/benchmarks/devices.py --devices 2

It counts the bytes of the collective operations in a train step: without
GradES, with it, and once every second component is frozen structurally. On
JAX that is `keras.distribution`, on TensorFlow `tf.distribute`, on PyTorch
`DistributedDataParallel`, in a process for each device. `--devices` makes so
many out of one CPU.
"""

import common  # It chooses the backend.

# isort: split
import importlib

import keras

import keras_grades

engine = importlib.import_module(f"devices_{keras.backend.backend()}")

FREEZE_AT, STEPS = 2, 5


class Task:
    """What is trained: one of the models in `common.py`, on random tokens."""

    def __init__(self, name):
        self.name = name

    def build(self):
        return common.compile_model(common.build(self.name))

    def batch(self):
        return next(common.batches())

    def policy(self, model):
        """Arguments of a run in which half of the components freeze at once."""
        return {"tau": common.tau_for(common.half(model)), "alpha": FREEZE_AT}

    def half_frozen(self, model):
        """The callback of that run."""
        return keras_grades.GradES(
            **self.policy(model), recompile="always", verbose=0
        )

    def fit(self, model, data, *callbacks):
        model.fit(
            data, steps_per_epoch=STEPS, verbose=0, callbacks=[*callbacks]
        )


def main(argv=None):
    parser = common.parse_arguments(__doc__)
    parser.add_argument("--devices", type=int, help="to make of the CPU")
    parser.add_argument(
        "--parallel",
        nargs="+",
        choices=engine.PARALLEL,
        default=list(engine.PARALLEL),
        help="what is shared: batches only, or matrices, too",
    )
    parser.set_defaults(models=["wide"])
    args = parser.parse_args(argv)
    if args.devices:
        engine.make(args.devices)
    rows = [
        measure(model, parallel)
        for model in args.models
        for parallel in args.parallel
    ]
    common.report("devices", rows, args.output)


def measure(name, parallel):
    task = Task(name)
    devices, (plain, watched, frozen) = engine.sent(task, parallel)
    half = common.half(task.build())
    return {
        "model": name,
        "parallel": parallel,
        "devices": devices,
        "plain bytes": plain,
        "added bytes": watched - plain,
        "half frozen bytes": frozen,
        "ratio": frozen / plain,
        "frozen gradients": 4 * sum(c.size for c in half),
    }


if __name__ == "__main__":
    main()
