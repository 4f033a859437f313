"""How much memory the state of GradES takes, beside the weights it tracks.

python examples/benchmarks/memory.py
"""

import math

import common
import keras
import numpy as np

import keras_grades

TARGETS = {
    "transfer": 0.01,
    "gradient": 0.01,
    "gradient_change": None,
    "weight_change": 0.01,
    "relative_change": 0.01,
}


def main(argv=None):
    args = common.parse_arguments(__doc__).parse_args(argv)
    rows = [
        measure(model, monitor) for model in args.models for monitor in TARGETS
    ]
    common.report("memory", rows, args.output)


def measure(name, monitor):
    model = common.build(name)
    components = keras_grades.find_components(model)
    added_bytes = added(model, components, monitor)
    tracked = size(v for c in components for v in c.variables)
    target = TARGETS[monitor]
    return {
        "model": name,
        "monitor": monitor,
        "added bytes": added_bytes,
        "tracked bytes": tracked,
        "ratio": added_bytes / tracked,
        "target": target or "none: it keeps a copy",
        "reached": ""
        if target is None
        else common.reached(added_bytes / tracked, target),
    }


def added(model, components, monitor):
    """Bytes that GradES keeps from one step to the next."""
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(), components, 1.0, alpha=0, monitor=monitor
    )
    optimizer.build(model.trainable_variables)
    inner = {id(v) for v in optimizer.inner_optimizer.variables}
    return size(v for v in optimizer.variables if id(v) not in inner)


def size(variables):
    """Bytes."""
    return sum(
        math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables
    )


if __name__ == "__main__":
    main()
