"""Makes freezes structural in one `fit()`, when a rebuilt step pays."""

import warnings

import numpy as np

from keras_grades.backend import backend
from keras_grades.rebuild.ahead import Ahead


class Rebuilder:
    """Takes the time of steps, and rebuilds the train step when it is due.

    Args:
        installation: `Installation` on the model.
        rebuilds: `Rebuilds`, which decides.
        work: `StepWork` of the model.
        components: List of n `Component`.
        followers: List of `Followers` of those.
        clock: Function that returns the time in seconds.

    Attributes:
        is_due: Boolean, whether to rebuild before the next step.
    """

    def __init__(
        self, installation, rebuilds, work, components, followers, clock
    ):
        self._installation = installation
        self._rebuilds = rebuilds
        self._work = work
        self._components = components
        self._followers = followers
        self._clock = clock
        # What is out of the train step.
        self._structural = np.zeros(len(components), bool)
        self.is_due = False
        # The step up to which the time was taken, when that was, and whether
        # the host had waited for it.
        self._timed = 0, 0.0, True

    def begin(self, frozen):
        """Before the first step: to leave out frozen ones costs nothing."""
        self.is_due = frozen.any() and self._rebuilds.mode != "never"

    @property
    def total_steps(self):
        """Integer, the planned steps, or `None`."""
        return self._rebuilds.total_steps

    @total_steps.setter
    def total_steps(self, total_steps):
        self._rebuilds.total_steps = total_steps

    def compiled(self, step, began, ended):
        """Tells when a first call began, and when it had ended."""
        self._timed = step, ended, True
        self._rebuilds.compiled(step, ended - began)

    def ran(self, step, time, has_waited, frozen):
        """Tells that steps up to this one had ended, or the device had them.

        It may be behind by some steps, always as many: then steps are done as
        fast as they are given to it. Between where the host has waited and
        where it has not, that is not so.

        Args:
            step: Integer.
            time: Float, when that was.
            has_waited: Boolean, whether they had ended.
            frozen: Boolean array of shape `(n,)`, what was frozen in them.
        """
        last_step, last_time, had_waited = self._timed
        if step <= last_step:
            return
        if has_waited == had_waited:
            _, share = self._pending(frozen)
            self._rebuilds.ran(step - last_step, time - last_time, share)
        self._timed = step, time, has_waited

    def skip_time(self, step):
        """Leaves out the time since this step ended."""
        self._timed = step, self._clock(), True

    def decide(self, step, frozen, rest_at=None, stop=None):
        """Decides whether to rebuild before the next step.

        Args:
            step: Integer, the last step taken.
            frozen: Boolean array of shape `(n,)`.
            rest_at: Integer array of shape `(n,)`, the step at which each
                component freezes, once that is known.
            stop: Integer, the step at which training ends, if it is.
        """
        ahead = None
        if rest_at is not None:
            ahead = self._ahead(step, frozen, rest_at, stop)
        newly_frozen, share = self._pending(frozen)
        is_due = self._rebuilds.is_due(step, newly_frozen, share, ahead)
        # It goes by the time, which is another one on each host.
        model = self._installation.model
        self.is_due = newly_frozen > 0 and backend.agree(model, is_due)

    def rebuild(self, frozen):
        """Makes logical freezes structural.

        Args:
            frozen: Boolean array of shape `(n,)`.
        """
        self.is_due = False
        self._rebuilds.rebuilt(*self._pending(frozen))
        self._structural = frozen
        groups = [c for c, f in zip(self._components, frozen) if f]
        groups += [f for f in self._followers if f.are_frozen(frozen)]
        self._installation.freeze([v for g in groups for v in g.variables])
        if not self._rebuilds.rebuilds_left:
            warnings.warn(
                "The train step cannot be rebuilt once more, or the compiler "
                "would give up on it. Components that freeze from here on "
                "keep their values as exactly, but save no time until the end "
                "of `fit()`. Use `recompile` with a larger number, to rebuild "
                "for more components at once.",
                stacklevel=4,
            )

    def timing(self):
        """Dict of what compiling took, and rebuilds have saved."""
        return self._rebuilds.timing()

    def _pending(self, frozen):
        """Counts components frozen only logically, and their work."""
        share = self._work.share(frozen) - self._work.share(self._structural)
        return np.count_nonzero(frozen & ~self._structural), share

    def _ahead(self, step, frozen, rest_at, stop):
        coming = np.unique(rest_at)
        steps = [step, *coming[(coming > step) & (coming < stop)]]
        by_now = self._work.share(self._structural)
        shares = [
            self._work.share(frozen | (rest_at <= s)) - by_now for s in steps
        ]
        return Ahead([int(s) - step for s in steps], shares, stop - step)
