"""When the host looks at the state of a run, without waiting for the device."""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras_grades import trace
from keras_grades.backend import backend

# After the grace period the host looks at the state at least once in this
# many steps, more often in short runs: at one look it sees what was so at the
# last, and stopping late may cost one per cent of the steps at most.
MAX_STEPS_BETWEEN_LOOKS = 8
LOOKS = 200


class Sight(NamedTuple):
    """The state at one look.

    Attributes:
        batches: Integer, the batches of the run by then.
        time: Float, when that was. If the host did not wait, the device may
            have been behind.
        has_waited: Boolean.
        state: Function that returns it, a dict of arrays.
    """

    batches: int
    time: float
    has_waited: bool
    state: Callable[[], dict]


class Looks:
    """Keeps count of batches, and of when the host looks next.

    At one look it begins to copy the state, at the next it reads that copy,
    which is there by then.

    Args:
        optimizer: The `GradESOptimizer`.
        model: The model that it trains.
        batches_per_step: Integer, batches whose gradients are accumulated.
        clock: Function that returns the time in seconds.

    Attributes:
        batches: Integer, the batches of the run so far.
    """

    def __init__(self, optimizer, model, batches_per_step, clock):
        self.batches = 0
        self._optimizer = optimizer
        self._model = model
        self._batches_per_step = batches_per_step
        self._clock = clock
        self._next = math.inf
        self._last: Sight | None = None
        # A step that was read, and the batches by then.
        self._known = 0, 0

    @property
    def is_due(self):
        """Whether it is time to look."""
        return self.batches >= self._next

    def plan(self, total_steps, grace_steps, stop):
        """Plans the next look.

        Args:
            total_steps, grace_steps: As in `next_look`.
            stop: Integer, the step at which training ends, or `None`.
        """
        step = self.step
        next_step = next_look(step, total_steps, grace_steps)
        if stop is not None and step < stop < next_step:
            next_step = stop
        self._next = self.batches + self._batches_per_step * (next_step - step)

    @property
    def step(self):
        """Integer, the step by now, counted from the last that was read."""
        step, batches = self._known
        return step + (self.batches - batches) // self._batches_per_step

    def read(self, sight):
        """The state in a `Sight`; the count of steps is right from there."""
        state = sight.state()
        self._known = int(state["step"]), sight.batches
        return state

    def now(self, output=None):
        """The state as it is now: waits for the device.

        Args:
            output: What the train function returned, or `None` between
                epochs.
        """
        state = backend.read(self._optimizer, self._model, output)
        return Sight(self.batches, self._clock(), True, lambda: state)

    def last(self):
        """The `Sight` of the last look, if that did not wait, or `None`."""
        last, self._last = self._last, None
        return last

    def begin(self, output):
        """Begins to copy the state as it is now.

        Args:
            output: What the train function returned.
        """
        state = backend.begin_to_read(self._optimizer, self._model, output)
        self._last = Sight(self.batches, self._clock(), False, state)


def steps_between_looks(total_steps):
    """The most steps between two looks, after the grace period.

    Args:
        total_steps: Integer, the planned steps, or `None` if unknown.
    """
    if total_steps is None:
        return MAX_STEPS_BETWEEN_LOOKS // 2
    return max(1, min(MAX_STEPS_BETWEEN_LOOKS, total_steps // LOOKS))


def next_look(step, total_steps, grace_steps):
    """The step at which to look next.

    A function of the step alone, so that a run that is resumed from the end
    of an epoch stops where the uninterrupted one does.

    Args:
        step: Integer, the step of this look.
        total_steps: Integer, the planned steps, or `None` if unknown.
        grace_steps: Integer, the first step that may freeze.
    """
    every = steps_between_looks(total_steps)
    in_time_for_trace = (step // trace.ROWS + 1) * trace.ROWS
    if step < grace_steps:
        in_time_to_freeze = math.ceil(grace_steps / every) * every
    else:
        in_time_to_freeze = (step // every + 1) * every
    return min(in_time_for_trace, in_time_to_freeze)
