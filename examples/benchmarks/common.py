"""What the benchmarks share: models, steps taken in turns, tables, JSON.

Runs that are compared are `fit()` calls in threads of one process that take
one step each in turn, A B A B: whatever else the machine does meets all of
them alike. A step is timed until its loss can be read, so nothing is hidden
by a device that works ahead.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import concurrent.futures
import importlib.metadata
import json
import pathlib
import platform
import re
import sys
import threading
import time

import keras
import keras_hub
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from data import BBC_TOPICS
from data import minilm_folder

import keras_grades

# Those of BBC News, which some benchmarks train on.
CLASSES = len(BBC_TOPICS)
BATCH = 16
LENGTH = 64
# No run is timed before it has compiled, and taken a few steps.
WARM_UP = 6


def minilm():
    """The pretrained 6-layer BERT of the other examples."""
    return keras_hub.models.TextClassifier.from_preset(
        minilm_folder(), num_classes=CLASSES, preprocessor=None
    )


def bert(layers, width, vocabulary, length=LENGTH):
    """A BERT with random weights."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary,
        num_layers=layers,
        num_heads=width // 64 or 1,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=length,
    )
    return keras_hub.models.BertTextClassifier(
        backbone, num_classes=CLASSES, preprocessor=None
    )


MODELS = {
    "minilm": minilm,
    "wide": lambda: bert(layers=4, width=768, vocabulary=8000),
    "tiny": lambda: bert(layers=2, width=16, vocabulary=50),
}


def build(name):
    """A model with a plain `fit()`, which does not copy its data."""
    keras.utils.set_random_seed(0)
    classifier = MODELS[name]()
    return keras.Model(classifier.inputs, classifier.outputs)


def compile_model(model):
    model.compile(
        keras.optimizers.AdamW(5e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def batches():
    """Endless batches of random tokens: what is in them takes no time."""
    rng = np.random.default_rng(0)
    shape = (BATCH, LENGTH)
    while True:
        x = {
            "token_ids": rng.integers(1, 50, shape).astype("int32"),
            "padding_mask": np.ones(shape, "int32"),
            "segment_ids": np.zeros(shape, "int32"),
        }
        yield x, rng.integers(0, CLASSES, BATCH).astype("int32")


def half(model):
    """Every second component."""
    return keras_grades.find_components(model)[::2]


def below_the_last_block(model):
    """All components but those of the last block."""
    components = keras_grades.find_components(model)
    return [c for c in components if c.block != components[-1].block]


def tau_for(components):
    """Thresholds with which these freeze at once, and no others ever."""
    names = "|".join(re.escape(c.name) for c in components)
    return {f"^({names})$": 1e30, "": 1e-30}


class Turns:
    """Whose turn it is, among the runs that have not ended."""

    def __init__(self, runs):
        self._running = collections.deque(runs)
        self._changed = threading.Condition()

    def wait_for(self, run):
        with self._changed:
            self._changed.wait_for(lambda: self._running[0] == run)

    def pass_on(self):
        with self._changed:
            self._running.rotate(-1)
            self._changed.notify_all()

    def leave(self, run):
        with self._changed:
            self._running.remove(run)
            self._changed.notify_all()


class InTurns(keras.callbacks.Callback):
    """Times each step, and lets the next run take one after it."""

    def __init__(self, run, turns, rounds=None):
        super().__init__()
        self.run = run
        self.turns = turns
        self.rounds = rounds
        self.seconds = []
        # Seconds spent waiting for a turn, and when the last step ended.
        self.waited = 0.0
        self.ended = None

    def on_train_batch_begin(self, batch, logs=None):
        began = time.perf_counter()
        self.turns.wait_for(self.run)
        self._began = time.perf_counter()
        self.waited += self._began - began

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # Waits for the step.
        self.ended = time.perf_counter()
        self.seconds.append(self.ended - self._began)
        if len(self.seconds) == self.rounds:
            self._model.stop_training = True
        self.turns.pass_on()


def run_in_turns(fit, runs, turns):
    """Calls `fit` of each run in a thread of its own.

    Args:
        fit: Function of one of the runs, with an `InTurns` in it.
        runs: Iterable.
        turns: `Turns` of the runs. One that has ended leaves them.
    """

    def fit_and_leave(run):
        try:
            fit(run)
        finally:
            turns.leave(run)

    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(fit_and_leave, runs))  # Raises what a run has raised.


def time_in_turns(runs, rounds, planned):
    """Times some runs, step by step in turns.

    Args:
        runs: Dict from a name to a compiled model and a list of callbacks.
        rounds: Integer, steps to time of each.
        planned: Integer, steps that `fit()` is asked for. The host looks at
            the state of GradES once in a two-hundredth of them, or in 8.

    Returns:
        Dict from the name to an array of seconds a step.
    """
    turns = Turns(runs)
    timers = {n: InTurns(n, turns, WARM_UP + rounds) for n in runs}

    def fit(name):
        model, callbacks = runs[name]
        model.fit(
            batches(),
            steps_per_epoch=planned,
            verbose=0,
            callbacks=[timers[name], *callbacks],
        )

    run_in_turns(fit, runs, turns)
    return {n: np.array(t.seconds[WARM_UP:]) for n, t in timers.items()}


def ratio(measured, reference):
    """Median ratio of steps taken in turns, and its quartiles."""
    quartiles = np.percentile(measured / reference, [25, 50, 75])
    return dict(zip(("low", "median", "high"), map(float, quartiles)))


def argument_parser(description):
    """A parser with the argument of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/benchmarks"),
        help="folder for the JSON",
    )
    return parser


def parse_arguments(description, rounds=None):
    """A parser for those that take the models above, and time their steps."""
    parser = argument_parser(description)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=["minilm", "wide"])
    if rounds is not None:
        add_rounds(parser, rounds)
    return parser


def add_rounds(parser, rounds):
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="how often each is timed"
    )


def machine():
    """Where the figures come from."""
    backend = keras.backend.backend()
    versions = {
        name: importlib.metadata.version(name)
        for name in ("keras", "keras-hub", backend)
    }
    return {
        "backend": backend,
        "cpu": _cpu_model(),
        "cores": _cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _cores():
    """How many of them may be used."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model():
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [
        line.split(":")[1].strip() for line in lines if "model name" in line
    ]
    return names[0] if names else platform.processor()


def report(name, rows, folder):
    """Prints rows, dicts with the same keys, and writes them as JSON."""
    where = machine()
    print(f"\n{name} on {where['backend']}, {where['cpu']}")
    header = list(rows[0])
    cells = [[_cell(row[key]) for key in header] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    for line in [header, *cells]:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{where['backend']}.json"
    path.write_text(json.dumps({"machine": where, "rows": rows}, indent=2))
    print(f"Wrote {path}.", flush=True)


def _cell(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reached(value, target):
    return "yes" if value <= target else "no"
