"""One process has one backend: JAX unless KERAS_BACKEND says otherwise."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest


@pytest.fixture(autouse=True)
def _fresh_session():
    """Each test starts from the same names, seed and memory."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
