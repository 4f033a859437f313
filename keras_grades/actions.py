"""How a component that has converged comes to rest: at once, or annealed.

An action reads `converged_at`, the step at which each of n components has
converged, and `frozen_at`, the step whose update was its last; 0 is never.
"""

import numbers

import numpy as np
from keras import ops

from keras_grades import compatibility

# An annealing of more steps than any run has; a step can be added to it.
ENDLESS = 2**30
# The lowest block settles at this share of an annealing for all, the highest
# at its end. By then most of what the annealing moves has been moved.
FIRST_AT_REST = 0.5


class Action:
    """Says how components come to rest.

    Attributes:
        end: Integer, the step at which all rest at the latest, or `None`.
        freezes_at_once: Boolean, whether a component that converges at a step
            is frozen after it.
        holds_others: Boolean, whether variables that are not tracked take the
            mean of the shares of the components.
    """

    end: int | None = None
    freezes_at_once = False
    holds_others = False

    def check(self, optimizer, variables):
        """Raises if updates of an optimizer cannot be held back like that.

        Args:
            optimizer: The `keras.optimizers.Optimizer` that is wrapped.
            variables: List of `keras.Variable`, what it trains.
        """
        del optimizer, variables

    def rate(self, state, step):
        """The share of the learning rate at which a step is taken.

        Args:
            state: As in `share`.
            step: Integer scalar.

        Returns:
            Float scalar tensor, or `None`: all of it.
        """
        del state, step

    def share(self, state, step):
        """The share of its update that each component takes at a step.

        Args:
            state: Dict with `"converged_at"` and `"frozen_at"`, integer
                tensors of shape `(n,)`, before this step.
            step: Integer scalar.

        Returns:
            Float tensor of shape `(n,)`, or `None`: all of it, until frozen.
        """
        del state, step

    def rest_at(self, converged_at, xp=ops):
        """The step after which each component is frozen.

        Args:
            converged_at: Integer tensor of shape `(n,)`.
            xp: Module with its functions, `keras.ops` or, where it is an
                array of the host, numpy. Defaults to `keras.ops`.

        Returns:
            Integer tensor of shape `(n,)`, without a meaning where a
            component has not converged.
        """
        raise NotImplementedError

    def is_at_rest(self, converged_at, step):
        """Whether each component is frozen after a step.

        Args:
            converged_at: Integer tensor of shape `(n,)`, after this step.
            step: Integer scalar.

        Returns:
            Boolean tensor of shape `(n,)`.
        """
        is_due = step >= self.rest_at(converged_at)
        return ops.logical_and(converged_at > 0, is_due)


class Freeze(Action):
    """A component is frozen at the step at which it converges."""

    freezes_at_once = True

    def rest_at(self, converged_at, xp=ops):
        return converged_at


class Settle(Action):
    """The learning rate falls linearly to 0, and blocks freeze one by one.

    For components that converge together. All that is trained settles with
    them, as at the end of a warm-up, stable, decay schedule. Blocks freeze
    from below: then the backward pass can end above them.

    Args:
        cooldown: As in `Anneal`.
        blocks: List of n strings, the block of each component, in the order
            in which data meets them.
        end: Integer, the planned end: what converges late settles faster, to
            rest by then. Defaults to `None`.

    Reference: [MiniCPM, arXiv 2404.06395](https://arxiv.org/abs/2404.06395),
    for the schedule.
    """

    def __init__(self, cooldown, blocks, end=None):
        self.cooldown = cooldown
        self.end = end
        order = {b: i for i, b in enumerate(dict.fromkeys(blocks))}
        rank = np.array([order[b] for b in blocks], "float32")
        above = (len(order) - 1 - rank) / max(1, len(order) - 1)
        self._at_rest = (1 - (1 - FIRST_AT_REST) * above).astype("float32")

    def check(self, optimizer, variables):
        compatibility.check_can_settle(optimizer)

    def rate(self, state, step):
        converged_at = ops.max(state["converged_at"])
        return share_left(converged_at, step, self._steps(converged_at))

    def _steps(self, converged_at, xp=ops):
        steps = cooldown_steps(converged_at, self.cooldown, xp)
        if self.end is None:
            return steps
        return xp.minimum(steps, xp.maximum(self.end - converged_at, 0))

    def rest_at(self, converged_at, xp=ops):
        steps = self._steps(converged_at, xp)
        steps = xp.multiply(self._at_rest, xp.array(steps, "float32"))
        return converged_at + xp.array(xp.floor(steps), "int32")


class Anneal(Action):
    """Updates shrink linearly from convergence on; then it is frozen.

    As FreezeOut (Brock et al., 2017) anneals the learning rate of each layer,
    but from where it has converged.

    Args:
        cooldown: Integer, a number of steps, or float, a multiple of the
            step at which a component has converged.
    """

    holds_others = True

    def __init__(self, cooldown):
        self.cooldown = cooldown

    def check(self, optimizer, variables):
        compatibility.check_can_anneal(optimizer, variables)

    def share(self, state, step):
        converged_at = state["converged_at"]
        steps = cooldown_steps(converged_at, self.cooldown)
        share = share_left(converged_at, step, steps)
        # A checkpoint may know no cooldown, or another one.
        return ops.where(state["frozen_at"] > 0, 0.0, share)

    def rest_at(self, converged_at, xp=ops):
        return converged_at + cooldown_steps(converged_at, self.cooldown, xp)


def share_left(converged_at, step, steps):
    """The share of an update that is taken at a step.

    All of it until a component has converged; then it falls linearly, and is
    0 from the step after it has cooled down.

    Args:
        converged_at: Integer tensor of any shape, before this step.
        step: Integer scalar, this step.
        steps: Integer tensor of the same shape, how long it cools down.

    Returns:
        Float tensor of the same shape.
    """
    since = ops.cast(step - converged_at, "float32")
    left = ops.maximum(1 - since / ops.cast(steps + 1, "float32"), 0.0)
    return ops.where(converged_at > 0, left, 1.0)


def cooldown_steps(converged_at, cooldown, xp=ops):
    """How long each component cools down, in steps."""
    if isinstance(cooldown, numbers.Integral):
        return min(int(cooldown), ENDLESS)
    steps = cooldown * xp.array(converged_at, "float32")
    return xp.array(xp.floor(xp.minimum(steps, float(ENDLESS))), "int32")
