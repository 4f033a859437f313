"""What GradES costs, and what freezing gives, on a GPU.

    python examples/benchmarks/gpu.py
    KERAS_BACKEND=torch python examples/benchmarks/gpu.py

It needs no data: BERT base, a decoder of the size of GPT-2, and one so small
that the host must hurry, with random weights, in `mixed_bfloat16`. On a CPU
`--models tiny` shows that it works. Steps are taken in turns, some at a time:
within these the host does not wait.
"""

import common  # It chooses the backend.

# isort: split
import collections
import contextlib
import importlib
import itertools
import time

import keras
import keras_hub
import numpy as np

import keras_grades
from keras_grades.backend import backend

device = importlib.import_module(f"gpu_{keras.backend.backend()}")

FREEZE_AT = 2
# Steps in a turn, after those in which everything is compiled.
TURN, WARM_UP = 20, 20
# Steps that `fit()` is asked for: the host looks at the state once in a
# two-hundredth of them, or in 8. It ends after the turns that are timed.
PLANNED = 2000


def bert(layers, width, batch, length, vocabulary=30522):
    """A model, and a batch."""
    classifier = common.bert(layers, width, vocabulary, length)
    x = tokens(batch, length, vocabulary)
    x["segment_ids"] = np.zeros_like(x["token_ids"])
    return classifier, x, np.arange(batch) % common.CLASSES


def gpt2(layers, width, batch, length, vocabulary=50257):
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary,
        num_layers=layers,
        num_heads=width // 64 or 1,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=length,
    )
    decoder = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    x = tokens(batch, length, vocabulary)
    return decoder, x, np.roll(x["token_ids"], -1, axis=1)


def tokens(batch, length, vocabulary):
    rng = np.random.default_rng(0)
    shape = (batch, length)
    return {
        "token_ids": rng.integers(1, vocabulary, shape).astype("int32"),
        "padding_mask": np.ones(shape, "int32"),
    }


# Batches and lengths of usual fine-tuning.
MODELS = {
    "BERT base": lambda: bert(12, 768, batch=32, length=128),
    "GPT-2": lambda: gpt2(12, 768, batch=8, length=512),
    "short steps": lambda: bert(2, 128, batch=8, length=32),
    "tiny": lambda: bert(2, 16, batch=4, length=8, vocabulary=50),
    "tiny decoder": lambda: gpt2(2, 16, batch=4, length=8, vocabulary=50),
}


def main(argv=None):
    parser = common.argument_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=MODELS,
        default=["BERT base", "GPT-2", "short steps"],
    )
    add("--rounds", type=int, default=9, help="turns that are timed")
    args = parser.parse_args(argv)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        rows = [
            row for name in args.models for row in measure(name, args.rounds)
        ]
    finally:
        keras.config.set_dtype_policy(before)
    common.report("gpu", rows, args.output)


def build(name):
    """A compiled model, and its batch."""
    keras.utils.set_random_seed(0)
    task, x, y = MODELS[name]()
    model = keras.Model(task.inputs, task.outputs)
    return common.compile_model(model), (x, y)


def watched(model, **arguments):
    """It never freezes, and looks from the start."""
    del model
    return [keras_grades.GradES(**arguments, verbose=0)]


def frozen(model, chosen, truncate):
    """Those that are chosen are frozen structurally in the second step."""
    if truncate:
        # Tied to the output, it would keep the backward pass going.
        for layer in model.layers:
            if isinstance(layer, keras.layers.ReversibleEmbedding):
                layer.trainable = False
    return [
        keras_grades.GradES(
            tau=common.tau_for(chosen(model)),
            alpha=FREEZE_AT,
            recompile="always",
            truncate_backward=truncate,
            verbose=0,
        )
    ]


RUNS = {
    "plain": lambda model: [],
    "watched, default": watched,
    "watched, gradient": lambda m: watched(
        m, tau=1e-30, alpha=0, monitor="gradient"
    ),
    "half frozen": lambda m: frozen(m, common.half, truncate=False),
    "all below the last block, truncated": lambda m: frozen(
        m, common.below_the_last_block, truncate=True
    ),
}


class InTurns(keras.callbacks.Callback):
    """Takes `TURN` steps in a turn, and waits for them at its end alone.

    Attributes:
        first: Seconds of the first step: it is compiled.
        seconds: List of the seconds a step, one entry a turn.
    """

    def __init__(self, run, turns, rounds):
        super().__init__()
        self.run, self.turns, self.rounds = run, turns, rounds
        self.steps = 0
        self.first = None
        self.seconds = []

    def on_train_begin(self, logs=None):
        self.turns.wait_for(self.run)
        self._began = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if batch == 1:
            self._wait()
            self.first = time.perf_counter() - self._began
        steps = batch - WARM_UP
        if steps < 0 or steps % TURN:
            return
        self._wait()
        if steps:
            taken = time.perf_counter() - self._began
            self.seconds.append(taken / TURN)
            if len(self.seconds) == self.rounds:
                self._model.stop_training = True
                return
        self.turns.pass_on()
        self.turns.wait_for(self.run)
        self._began = time.perf_counter()

    def _wait(self):
        # Not `self.model`: on JAX that writes the state back.
        device.wait(self._model)


def measure(name, rounds):
    """Rows of the table: one a run."""
    warm_up(name)
    turns = common.Turns(RUNS)
    timers = {run: InTurns(run, turns, rounds) for run in RUNS}
    models = {run: build(name) for run in RUNS}

    def fit(run):
        # Else they would prepare themselves beside what is timed.
        turns.wait_for(run)
        model, batch = models[run]
        train(model, batch, PLANNED, timers[run], *RUNS[run](model))

    with counted_reads() as (reads, waits):
        common.run_in_turns(fit, RUNS, turns)
    plain = np.array(timers["plain"].seconds)
    for run, timer in timers.items():
        ratio = common.ratio(np.array(timer.seconds), plain)
        model = id(models[run][0])
        yield {
            "model": name,
            "run": run,
            "ms a step": 1e3 * float(np.median(timer.seconds)),
            "of plain": ratio["median"],
            "low": ratio["low"],
            "high": ratio["high"],
            "first step, s": timer.first,
            "peak, MB": peak_of(name, run),
            "reads a step": len(reads[model]) / timer.steps,
            "that wait": len(waits[model]) / timer.steps,
            "bytes a read": max(reads[model], default=0),
        }


def warm_up(name):
    """The first `fit()` in a process is slower; with an optimizer that no run
    has, so that nothing is compiled for them."""
    model, batch = build(name)
    model.compile("sgd", model.loss)
    train(model, batch, 2)


def train(model, batch, steps, *callbacks):
    model.fit(
        (batch for _ in itertools.count()),
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[*callbacks],
    )


@contextlib.contextmanager
def counted_reads():
    """Two dicts from the id of a model to the bytes of each look at its state.

    Of all looks, and of those that wait for the device.
    """
    reads, waits = (collections.defaultdict(list) for _ in range(2))
    read, begin_to_read = backend.read, backend.begin_to_read

    def reading(optimizer, model, output=None):
        values = read(optimizer, model, output)
        size = sum(v.nbytes for v in values.values())
        reads[id(model)].append(size)
        waits[id(model)].append(size)
        return values

    def beginning(optimizer, model, output):
        state = begin_to_read(optimizer, model, output)

        def counted():
            values = state()
            reads[id(model)].append(sum(v.nbytes for v in values.values()))
            return values

        return counted

    backend.read, backend.begin_to_read = reading, beginning
    try:
        yield reads, waits
    finally:
        del backend.read, backend.begin_to_read


def peak_of(name, run):
    """Memory at the peak of a step, in MB, or "" where that is not known.

    Of the last steps of some: these are without what is frozen.
    """
    late = FREEZE_AT + 2

    def steps(before_late_steps=lambda: None):
        # Here, so that its weights count.
        model, batch = build(name)
        callbacks = RUNS[run](model)

        def begin(batch, logs=None):
            if batch == late:
                before_late_steps()

        at = keras.callbacks.LambdaCallback(on_train_batch_begin=begin)
        train(model, batch, late + 2, *callbacks, at)

    found = device.peak(steps)
    return "" if found is None else found / 1e6


if __name__ == "__main__":
    main()
