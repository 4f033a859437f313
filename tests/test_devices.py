"""Several devices, made of one CPU, each time in processes of their own."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

TESTS = pathlib.Path(__file__).parent


def run(script, *arguments, **environment):
    subprocess.run(
        [sys.executable, TESTS / script, *map(str, arguments)],
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )


def only_on(backend):
    return pytest.mark.skipif(
        keras.backend.backend() != backend, reason=f"it is about {backend}"
    )


@only_on("tensorflow")
def test_replicas():
    run("replicas.py")
