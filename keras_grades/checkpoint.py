"""The freeze state in a checkpoint: by name, and for certain components.

Names and fingerprint are a format: files that older versions wrote load.
"""

import dataclasses
import warnings
import zlib

import numpy as np

from keras_grades.backend import backend
from keras_grades.validation import RETIRED
from keras_grades.validation import excerpt

# Under this name a checkpoint says which components it is of.
FINGERPRINT = "components"
STEP = "step"
# And which monitor has measured.
MONITOR = "monitor"
NAMES = (FINGERPRINT, STEP, MONITOR)
# Where it is saved: beside what the model's own optimizer saves.
PLACE = "freeze_state"


def save(store, state, fingerprint, monitor):
    """Writes the state.

    Args:
        store: Mapping from a name to an array, to be filled.
        state: Dict of `keras.Variable`.
        fingerprint: What `fingerprint_of` returned.
        monitor: The `Monitor`.
    """
    for name, variable in state.items():
        store[name] = variable.numpy()
    store[FINGERPRINT] = fingerprint
    store[MONITOR] = _number_of(monitor)


def load(store, state):
    """Reads the state; names that a file lacks keep their values.

    Args:
        store: Mapping from a name to an array.
        state: Dict of `keras.Variable`, to be assigned to.
    """
    for name, variable in state.items():
        if name in store:
            backend.place(variable, store[name])


def has_freeze_state(store):
    """Whether a store was written by a `GradESOptimizer`."""
    return FINGERPRINT in store


def fingerprint_of(components, places):
    """One integer a component, to tell whether a file fits.

    Not of names: those that Keras makes up differ between processes.

    Args:
        components: Sequence of n `Component`.
        places: Function from variables to the list of their places among
            those that the optimizer was built with.

    Returns:
        Integer array of shape `(n,)`.
    """
    facts = [(c.role, c.shape, places(c.variables)) for c in components]
    return np.array([zlib.crc32(repr(f).encode()) for f in facts], "int64")


def check_fits(store, fingerprint, components):
    """Raises if a file is of other components, or of another optimizer.

    Args:
        store: Mapping from a name to an array.
        fingerprint: What `fingerprint_of` returned.
        components: Sequence of n `Component`.
    """
    if not has_freeze_state(store):
        raise ValueError(
            "The optimizer in this file was saved without GradES, and this "
            "one is a `GradESOptimizer`. Load the file before `fit()` begins, "
            "while the model has its own optimizer. If `fit()` was "
            "interrupted, call `callback.restore()` first."
        )
    saved = np.asarray(store[FINGERPRINT])
    if len(saved) != len(fingerprint):
        raise ValueError(
            "The freeze state in this file does not fit the model: it is of "
            f"{len(saved)} components, and GradES tracks {len(fingerprint)} "
            "here. Use the model, the flags and the `components` and `tau` "
            "that it was saved with."
        )
    differs = saved != fingerprint
    if differs.any():
        names = [c.name for c, d in zip(components, differs) if d]
        raise ValueError(
            "The freeze state in this file does not fit the model: its "
            "components have other roles or shapes, or come in another order. "
            "Use the model, the flags and the `components` that it was saved "
            f"with. Different here: {excerpt(names)}"
        )


def check_is_of_monitor(store, specs, monitor, given):
    """Raises if a file has not the state of a monitor.

    Args:
        store: Mapping from a name to an array.
        specs: Dict of the monitor's `StateSpec` by name.
        monitor: The `Monitor`.
        given: What was given as `monitor`, for the message.
    """
    is_missing = any(
        spec.shape is not None and name not in store
        for name, spec in specs.items()
    )
    # Files of version 0.1 do not say it.
    saved = np.asarray(store[MONITOR]) if MONITOR in store else None
    if is_missing or saved not in (None, _number_of(monitor)):
        raise ValueError(
            "The freeze state in this file is of another monitor. Pass the "
            f"`monitor` that it was saved with. Received: monitor={given!r}"
        )


def _number_of(monitor):
    name = type(monitor).__name__
    return np.array(zlib.crc32(name.encode()), "int64")


def to_config(group, places):
    """The arguments of a `Component` or `Followers`, with places for variables.

    Args:
        group: `Component` or `Followers`.
        places: As in `fingerprint_of`.
    """
    config = {
        field.name: getattr(group, field.name)
        for field in dataclasses.fields(group)
        if field.name != "frozen_at"
    }
    if "components" in config:
        config["components"] = list(config["components"])
    return config | {"variables": places(group.variables)}


def without_retired(config):
    """The config of an optimizer without retired arguments.

    A file that used one of them loads, with a warning: training goes on
    without it.
    """
    config = dict(config)
    unused = {"thaw": False, "interval": 1}
    for name, value in unused.items():
        given = config.pop(name, value)
        if given != value:
            warnings.warn(
                f"This file was written with {name}={given!r}, which was "
                f"retired and is left out. {RETIRED[name]}",
                stacklevel=2,
            )
    return config
