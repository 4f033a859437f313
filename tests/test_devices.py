"""Several devices, made of one CPU, each time in processes of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import pytest

TESTS = pathlib.Path(__file__).parent
BENCHMARKS = TESTS.parent / "examples" / "benchmarks"


# Processes that have parted would wait for each other for good.
SECONDS = 600


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
    )


def check(*processes):
    """Waits for all to end well; none is left when one does not."""
    give_up = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in processes):
            assert not any(process.returncode for process in processes)
            assert time.monotonic() < give_up, "They wait for each other."
            time.sleep(0.1)
        assert not any(process.returncode for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_tests(script, tests, **environment):
    """Runs the tests in a file, long ones or not."""
    command = ("-m", "pytest", "-q", TESTS / script, "-m", tests)
    return start(*command, **environment)


def only_on(backend):
    return pytest.mark.skipif(
        keras.backend.backend() != backend, reason=f"it is about {backend}"
    )


in_parts = pytest.mark.parametrize(
    "tests", ["not long", pytest.param("long", marks=pytest.mark.long)]
)


@only_on("jax")
@in_parts
def test_four_devices(tests):
    flags = "--xla_force_host_platform_device_count=4"
    check(start_tests("on_four_devices.py", tests, XLA_FLAGS=flags))


@only_on("tensorflow")
@in_parts
def test_two_replicas(tests):
    check(start_tests("on_two_replicas.py", tests))


def two_processes(script, tests, **environment):
    """They meet at a port that is free."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    return [
        start_tests(script, tests, PORT=port, PROCESS=each, **environment)
        for each in ("0", "1")
    ]


@only_on("jax")
@in_parts
def test_two_processes(tests):
    flags = "--xla_force_host_platform_device_count=2"
    check(*two_processes("on_two_processes.py", tests, XLA_FLAGS=flags))


@pytest.mark.long
@only_on("tensorflow")
def test_two_workers():
    check(*two_processes("on_two_workers.py", "not long"))


@only_on("torch")
@in_parts
def test_two_ranks(tests):
    check(*two_processes("on_two_ranks.py", tests))


@pytest.mark.long
def test_the_benchmark(tmp_path):
    """On each backend: it makes its devices itself."""
    arguments = "--devices=2", "--models=tiny", "--parallel=data"
    check(start(BENCHMARKS / "devices.py", *arguments, f"--output={tmp_path}"))
    backend = keras.backend.backend()
    written = (tmp_path / f"devices_{backend}.json").read_text("utf-8")
    (row,) = json.loads(written)["rows"]
    assert row["devices"] == 2
    assert row["added bytes"] == 0
    assert row["plain bytes"] > 2 * row["frozen gradients"] > 0
    saved = row["plain bytes"] - row["half frozen bytes"]
    assert saved == row["frozen gradients"]
