"""Freezing, stopping and fitting again, for 20,000 steps: memory stays flat."""

import gc
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


@pytest.mark.long
@pytest.mark.skipif(not STATM.exists(), reason="it reads Linux's /proc")
def test_memory_is_flat():
    model = small.transformer(blocks=1)
    model.compile(keras.optimizers.AdamW(1e-3), small.loss())
    x, y = small.data(BATCHES)
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]

    def endless():
        while True:
            yield from batches

    used = []
    for _ in range(CYCLES):
        # Half of the matrices freeze, and the step is rebuilt; later the rest.
        tau = {"query|value|up": 1e30, "": 1e-30}
        rebuilt = GradES(tau, alpha=STEPS // 4, recompile="always", verbose=0)
        stopped = GradES(1e30, alpha=STEPS // 2, verbose=0)
        for callback in (rebuilt, stopped):
            model.fit(
                endless(),
                steps_per_epoch=BATCHES,
                epochs=STEPS // 2 // BATCHES,
                callbacks=[callback],
                verbose=0,
            )
        assert sum(c.frozen_at == STEPS // 4 for c in rebuilt.components) == 3
        assert stopped.stopped_step == STEPS // 2
        used.append(resident_bytes())
    assert int(model.optimizer.iterations) == CYCLES * STEPS == 20_000
    growth = np.polyfit(range(CYCLES - WARM_UP), used[WARM_UP:], 1)[0]
    print([round(u / 2**20) for u in used], f"{growth / 2**20:.2f} MiB a cycle")
    assert growth * CYCLES < 0.05 * used[WARM_UP]
