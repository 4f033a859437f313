"""A training that is killed again and again ends as one that is not."""

import os
import pathlib
import random
import subprocess
import sys
import time

import keras
import killed
import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "killed.py"
# From the first batch: the first epochs, with the compilations in them.
LONGEST_LIFE = 4.0


def run(folder, life=None, after="started", **environment):
    """Runs the script; kills it so many seconds after a file was written."""
    (folder / "started").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, folder], env={**os.environ, **environment}
    )
    if life is not None:
        while not (folder / after).exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(life)
        process.kill()
    process.wait()
    return process.returncode


def load(folder):
    return dict(np.load(folder / "result.npz"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return killed.train(tmp_path_factory.mktemp("whole"))


def kill_until_it_ends(folder, lives):
    """Returns how often it was killed."""
    kills = 0
    for life in lives:
        if (folder / "result.npz").exists():
            return kills
        kills += run(folder, life) != 0
    if not (folder / "result.npz").exists():
        assert run(folder) == 0
    return kills


def check(actual, expected, tolerance=1e-5):
    frozen_at = expected["frozen_at"]
    assert 0 < np.count_nonzero(frozen_at) < len(frozen_at)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=tolerance)


@pytest.mark.long
def test_killed_once(expected, tmp_path):
    # While it has five epochs to go.
    assert run(tmp_path, 0.0, after="003.keras") != 0
    assert run(tmp_path) == 0
    check(load(tmp_path), expected)


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="it starts a process for each backend by itself",
)
def test_backends_take_turns(expected, tmp_path):
    """What one has saved when it is killed, the next goes on with."""
    assert run(tmp_path, 0.0, "003.keras", KERAS_BACKEND="tensorflow") != 0
    for backend, *epochs in (("jax", "6"), ("torch",)):
        subprocess.run(
            [sys.executable, SCRIPT, tmp_path, *epochs],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
        )
    check(load(tmp_path), expected, tolerance=1e-4)


@pytest.mark.long
def test_killed_twenty_times(expected, tmp_path):
    lives = random.Random(0)
    kills = 0
    for run_number in range(20):
        folder = tmp_path / str(run_number)
        folder.mkdir()
        kills += kill_until_it_ends(
            folder, [lives.uniform(0.0, LONGEST_LIFE) for _ in range(6)]
        )
        check(load(folder), expected)
        if kills >= 20:
            return
    pytest.fail(f"Killed {kills} times only.")
