"""Marks for tests that are much alike on every backend.

Where a step is compiled they take minutes: there `make test-all` runs them.
"""

import keras
import pytest


def marks_long_on(*backends):
    """Marks for a module, as its `pytestmark`, or for `pytest.param`."""
    is_long = keras.backend.backend() in backends
    return [pytest.mark.long] if is_long else []


def long_on(*backends):
    """Decorates a test that is a long one on these backends."""
    marks = marks_long_on(*backends)
    return marks[0] if marks else lambda test: test
