"""Several devices, made of one CPU, each time in processes of their own."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

TESTS = pathlib.Path(__file__).parent


def run(*arguments, **environment):
    subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )


def only_on(backend):
    return pytest.mark.skipif(
        keras.backend.backend() != backend, reason=f"it is about {backend}"
    )


def run_tests(script, devices):
    """Runs the tests in a file that has these to itself."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    run("-m", "pytest", "-q", TESTS / script, XLA_FLAGS=flags)


@only_on("tensorflow")
def test_replicas():
    run(TESTS / "replicas.py")


@only_on("jax")
def test_four_devices():
    run_tests("on_four_devices.py", devices=4)
