"""What GradES does on the host, in models of more and more components.

    python examples/benchmarks/scaling.py

Finding the components, the code that runs before and after every step, and
a look at the state, which happens once in eight steps or more. The train
step itself does nothing here, so that only the host is timed.
"""

import time

import common
import keras
import numpy as np

import keras_grades

BLOCKS = {12: 2, 120: 20, 1200: 200}
STEPS = 2000
# The host's time a step, relative to the smallest model's (it is about one
# microsecond: what is in the cache of the processor can double it), and that
# of finding the components.
TARGET_STEP, TARGET_SECONDS = 2.0, 1.0


class Idle(keras.Model):
    """A model whose train function does nothing."""

    def make_train_function(self, force=False):
        output = None
        if keras.backend.backend() == "jax":
            # There the state is in what the train function returns.
            state = [v.value for v in self.optimizer.variables]
            output = {}, (None, None, state, None)
        self.train_function = lambda *args: output


def main(argv=None):
    parser = common.argument_parser(__doc__.split("\n")[0])
    common.add_rounds(parser, 3)
    args = parser.parse_args(argv)
    rows = [measure(blocks, args.rounds) for blocks in BLOCKS.values()]
    for row in rows:
        growth = row["step us"] / rows[0]["step us"]
        row["step, of the smallest"] = growth
        row["reached"] = common.reached(
            max(growth / TARGET_STEP, row["find s"] / TARGET_SECONDS), 1.0
        )
    common.report("scaling", rows, args.output)


def measure(blocks, rounds):
    keras.utils.set_random_seed(0)
    classifier = common.bert(layers=blocks, width=8, vocabulary=50)
    model = common.compile_model(Idle(classifier.inputs, classifier.outputs))
    find = [seconds(keras_grades.find_components, model) for _ in range(rounds)]
    grades = keras_grades.GradES(tau=1e-30, alpha=0, verbose=0)
    grades.set_model(model)
    grades.set_params({"steps": STEPS, "epochs": 1})
    grades.on_train_begin()
    grades.on_epoch_begin(0)
    steps = np.array([seconds(step, grades, model, i) for i in range(STEPS)])
    look = np.sort(steps)[-STEPS // 10 :]  # One in eight is a look.
    row = {
        "components": len(grades.components),
        "find s": float(np.median(find)),
        "step us": 1e6 * float(np.median(steps)),
        "look us": 1e6 * float(np.median(look)),
        "mean us": 1e6 * float(steps.mean()),
    }
    grades.restore()
    return row


def step(grades, model, i):
    grades.on_train_batch_begin(i)
    model.train_function()


def seconds(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
