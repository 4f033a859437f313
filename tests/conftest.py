"""One process has one backend: JAX unless KERAS_BACKEND says otherwise."""

import gc
import os
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if os.environ["KERAS_BACKEND"] == "jax":
    # Most of the time of these tests goes into compiling. Those of exactness
    # switch it on again.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Most tests compile the same small things: each once a run, also in the
    # processes that tests start.
    _compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import keras
import pytest

# What is compiled first takes seconds.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

if keras.backend.backend() == "jax":
    import jax
elif keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # As on JAX.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
elif keras.backend.backend() == "torch":
    import torch

    # Threads that wait for each other take longest on what is small.
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of what is alike on every backend, PyTorch runs all.

    The others, where it takes seconds to compile each step, run one in four
    of a module, not the same ones, and the rest with `make test-all`.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return
    first = {"jax": 0, "tensorflow": 2}[backend]
    modules = {}
    for item in items:
        names = {mark.name for mark in item.iter_markers()}
        if "alike" in names and not names & {"everywhere", "long"}:
            modules.setdefault(item.path, []).append(item)
    for alike in modules.values():
        if len(alike) >= 4:
            for i, item in enumerate(alike):
                if i % 4 != first:
                    item.add_marker("long")


@pytest.fixture(autouse=True)
def _fresh_session():
    """Each test starts from the same names, seed and memory."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled():
    """XLA maps memory for all that it compiles, some 200 times a test.

    Linux allows 65530 maps a process; then XLA aborts.
    """
    yield
    if keras.backend.backend() == "jax":
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _leave_out_what_stays():
    """What tests leave behind, as TensorFlow does its graphs, is not looked
    at again by the garbage collection: that would take a minute each time."""
    yield
    gc.collect()
    gc.freeze()
