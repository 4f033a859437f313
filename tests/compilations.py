"""What JAX compiles of a train step, in which thread."""

import threading

import jax
import pytest

from keras_grades.backend import backend


@pytest.fixture
def compilations():
    """The threads that have compiled a train step, in this order."""
    threads, is_over = [], threading.Event()

    def listen(event, seconds, fun_name="", **_):
        is_of_step = event.endswith("backend_compile_duration") and (
            "step" in fun_name
        )
        if is_of_step and not is_over.is_set():
            threads.append(threading.current_thread())

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield threads
    is_over.set()


@pytest.fixture
def prepared(monkeypatch):
    """What was compiled beside training: a list of `Future`."""
    begin, found = backend.begin_to_compile, []

    def begin_and_keep(*arguments):
        found.append(begin(*arguments))
        return found[-1]

    monkeypatch.setattr(backend, "begin_to_compile", begin_and_keep)
    return found
