"""What `fit()` was asked for."""

from typing import NamedTuple


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
