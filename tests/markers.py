"""Marks for tests that are much alike on every backend.

Where a step is compiled they take minutes: there `make test-all` runs them.
"""

import keras
import pytest


def long_on(*backends):
    """A mark: the test is a long one on these backends."""
    if keras.backend.backend() in backends:
        return pytest.mark.long
    return lambda test: test


def module_long_on(*backends):
    """The same for a module, as its `pytestmark`."""
    is_long = keras.backend.backend() in backends
    return [pytest.mark.long] if is_long else []
