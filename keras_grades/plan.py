"""What `fit()` was asked for, and when the host looks at the state."""

import math
from typing import NamedTuple

from keras_grades import trace

# After the grace period the host looks at the state at least once in this
# many steps, more often in short runs: at one look it sees what was so at the
# last, and stopping late may cost one per cent of the steps at most.
MAX_STEPS_BETWEEN_LOOKS = 8
LOOKS = 200


class Plan(NamedTuple):
    """What `fit()` was asked for.

    Attributes:
        batches: Integer, batches an epoch, or `None` if unknown.
        epochs: Integer, or `None`.
        batches_per_step: Integer, batches whose gradients are accumulated.
    """

    batches: int | None
    epochs: int | None
    batches_per_step: int

    @property
    def steps_per_epoch(self):
        """Integer, the number of updates, or `None`."""
        if not self.batches:
            return None
        return max(1, self.batches // self.batches_per_step)

    def steps(self, first_epoch=0):
        """The planned number of updates from an epoch on, or `None`."""
        if not self.batches or not self.epochs:
            return None
        epochs = self.epochs - first_epoch
        return self.batches * epochs // self.batches_per_step


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
