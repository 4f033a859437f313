"""The three backends agree: same weights, same batches, same decisions."""

import itertools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "agreement.py"
BACKENDS = ("jax", "tensorflow", "torch")


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="it starts a process for each backend by itself",
)
def test_backends_agree(tmp_path):
    runs = {}
    for backend in BACKENDS:
        path = tmp_path / f"{backend}.npz"
        environment = {**os.environ, "KERAS_BACKEND": backend}
        subprocess.run(
            [sys.executable, SCRIPT, path], env=environment, check=True
        )
        runs[backend] = dict(np.load(path))
    for a, b in itertools.combinations(BACKENDS, 2):
        assert runs[a].keys() == runs[b].keys()
        for name, values in runs[a].items():
            if name.endswith("frozen_at"):
                assert np.count_nonzero(values) > 0
                np.testing.assert_array_equal(values, runs[b][name])
            else:
                np.testing.assert_allclose(
                    values, runs[b][name], rtol=1e-4, atol=1e-7
                )
