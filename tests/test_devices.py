"""Several devices, made of one CPU, each time in processes of their own."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import pytest

TESTS = pathlib.Path(__file__).parent


# Processes that have parted would wait for each other for good.
SECONDS = 300


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


def start_tests(script, devices, tests, **environment):
    """Runs the tests in a file, long ones or not, with so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = ("-m", "pytest", "-q", TESTS / script, "-m", tests)
    return start(*command, XLA_FLAGS=flags, **environment)


def only_on(backend):
    return pytest.mark.skipif(
        keras.backend.backend() != backend, reason=f"it is about {backend}"
    )


@only_on("tensorflow")
def test_replicas():
    check(start(TESTS / "replicas.py"))


in_parts = pytest.mark.parametrize(
    "tests", ["not long", pytest.param("long", marks=pytest.mark.long)]
)


@only_on("jax")
@in_parts
def test_four_devices(tests):
    check(start_tests("on_four_devices.py", 4, tests))


@pytest.mark.long
@only_on("jax")
@in_parts
def test_two_processes(tests):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    check(
        *[
            start_tests(
                "on_two_processes.py", 2, tests, PORT=port, PROCESS=each
            )
            for each in ("0", "1")
        ]
    )
