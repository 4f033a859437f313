"""What a rebuilt train step saves: counted, then measured."""

import numpy as np


class StepWork:
    """Counts the operations of a step that freezing removes.

    In products of matrices: a step multiplies each matrix three times with a
    batch, forward, backward for the gradient of its input and backward for
    its own gradient, and then updates it. Freezing a component saves its own
    gradient and its update; once the followers above it are frozen as well,
    the backward pass ends there and saves the gradient of its input too.

    Args:
        components: List of `Component`.
        followers: List of `Followers`, those that become structural too.
        matrices: Integer, parameters in all matrices of the model.
        parameters: Integer, all trainable parameters.
    """

    # An optimizer reads and writes a few arrays for each parameter. That is
    # little compared with a product with a batch of a thousand tokens, but
    # slow.
    UPDATE = 0.3

    def __init__(self, components, followers, matrices, parameters):
        self._sizes = np.array([c.size for c in components])
        self._followers = followers
        self._total = 3 * matrices + self.UPDATE * parameters

    def share(self, frozen):
        """The share of a step's work that is saved.

        Args:
            frozen: Boolean array of shape `(n,)`, which components are
                structurally frozen.
        """
        saved = (1 + self.UPDATE) * self._sizes[frozen].sum()
        is_truncated = np.zeros_like(frozen)
        for group in self._followers:
            if group.are_frozen(frozen):
                saved += self.UPDATE * group.size
                is_truncated[list(group.components)] = True
        return (saved + self._sizes[is_truncated].sum()) / self._total


class SavingEstimate:
    """Seconds a step that a rebuilt train step saves.

    The share of a step's time that its matrices take depends on everything
    else in it, so the count is corrected by what earlier rebuilds saved.
    """

    def __init__(self):
        # Attention scores, norms and embeddings take time too.
        self._correction = 0.5

    def seconds(self, share, step_seconds):
        """What a step without a share of its work saves."""
        return self._correction * share * step_seconds

    def observe(self, share, before, after):
        """Learns from a rebuild: seconds a step before and after."""
        counted = share * before
        if counted > 0:
            observed = min(max((before - after) / counted, 0.0), 2.0)
            self._correction = (self._correction + observed) / 2
