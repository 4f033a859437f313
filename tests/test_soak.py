"""Freezing, stopping and fitting again, for 20,000 steps: memory stays flat."""

import gc
import itertools
import pathlib

import keras
import numpy as np
import pytest
import small

from keras_grades import GradES

STATM = pathlib.Path("/proc/self/statm")
CYCLES, STEPS, BATCHES = 20, 1000, 100
PAGE = 4096
# What compilers, and the caches of Keras, fill at first.
WARM_UP = 5


def resident_bytes():
    gc.collect()
    return int(STATM.read_text().split()[1]) * PAGE


def compiled():
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.AdamW(1e-3), small.loss())
    return model


def batches():
    yield from itertools.cycle(small.batches(*small.data(BATCHES)))


def growth(cycle):
    """Bytes that a cycle adds, once everything is warm."""
    used = []
    for _ in range(CYCLES):
        cycle()
        used.append(resident_bytes())
    print("MiB:", [round(u / 2**20) for u in used])
    return np.polyfit(range(CYCLES - WARM_UP), used[WARM_UP:], 1)[0], used[-1]


@pytest.mark.long
@pytest.mark.skipif(not STATM.exists(), reason="it reads Linux's /proc")
def test_memory_is_flat():
    model = compiled()

    def cycle():
        # Half of the matrices freeze, and the step is rebuilt; later the rest.
        tau = {"query|value|up": 1e30, "": 1e-30}
        rebuilt = GradES(tau, alpha=STEPS // 4, recompile="always", verbose=0)
        stopped = GradES(1e30, alpha=STEPS // 2, verbose=0)
        for callback in (rebuilt, stopped):
            model.fit(
                batches(),
                steps_per_epoch=BATCHES,
                epochs=STEPS // 2 // BATCHES,
                callbacks=[callback],
                verbose=0,
            )
        assert sum(c.frozen_at == STEPS // 4 for c in rebuilt.components) == 3
        assert stopped.stopped_step == STEPS // 2

    slope, used = growth(cycle)
    assert int(model.optimizer.iterations) == CYCLES * STEPS == 20_000
    # TensorFlow keeps what it has traced: a train function for each fit()
    # here, and one for the rebuild, all somewhat larger than a plain one.
    allowed = 3 * bytes_of_a_train_function() if is_tensorflow() else 0
    assert slope < 1.5 * allowed + 0.05 * used / CYCLES


def is_tensorflow():
    return keras.backend.backend() == "tensorflow"


def bytes_of_a_train_function():
    """What plain Keras loses when a train function is made anew."""
    model = compiled()

    def cycle():
        model.make_train_function(force=True)
        model.fit(batches(), steps_per_epoch=2, verbose=0)

    return growth(cycle)[0]
