"""Makes freezes structural in one `fit()`, when a rebuilt step pays.

Where it is known ahead what freezes when, the step of then is compiled while
training goes on. It is put in at the look that sees all of that frozen, and
waits there if it is not ready: never at a step that depends on the time.
"""

import functools
import math
import warnings
from collections.abc import Callable

import numpy as np

from keras_grades.backend import backend
from keras_grades.component import frozen_variables
from keras_grades.criterion import NEVER
from keras_grades.looks import steps_between_looks
from keras_grades.rebuild.ahead import Ahead


class Rebuilder:
    """Takes the time of steps, and rebuilds the train step when it is due.

    Args:
        installation: `Installation` on the model.
        policy: `RebuildPolicy`, which decides.
        work: `StepWork` of the model.
        components: List of n `Component`.
        followers: List of `Followers` of those.
        clock: Function that returns the time in seconds.

    Attributes:
        total_steps: Integer, the planned steps, or `None`.
    """

    def __init__(
        self, installation, policy, work, components, followers, clock
    ):
        self.total_steps = policy.total_steps
        self._installation = installation
        self._policy = policy
        self._work = work
        self._components = components
        self._followers = followers
        self._clock = clock
        # What is out of the train step.
        self._structural = np.zeros(len(components), bool)
        # What to do before the next step.
        self._to_do: Callable[[], None] | None = None
        # What the next rebuild takes out, once that is known ahead.
        self._coming: np.ndarray | None = None
        # When something began to be compiled beside training, and when it was
        # seen to be done; and how long that took to begin with.
        self._beside: tuple[float, float] | None = None
        self._traced = 0.0
        # The step up to which the time was taken, when that was, and whether
        # the host had waited for it.
        self._timed = 0, 0.0, True

    def begin(self, frozen):
        """Before the first step: to leave out frozen ones costs nothing."""
        if frozen.any() and self._policy.may_rebuild:
            self._to_do = functools.partial(self._rebuild, frozen)

    def plan(self, total_steps, is_open):
        """Plans for another number of steps.

        Args:
            total_steps: Integer, or `None` if it is unknown.
            is_open: Boolean, whether training goes on after those, nobody
                knows for how long.
        """
        self.total_steps = total_steps
        self._policy.total_steps = None if is_open else total_steps

    def compiled(self, step, began, ended):
        """Tells when a first call began, and when it had ended."""
        self._timed = step, ended, True
        self._policy.compiled(step, ended - began)

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
        steps, (_, share) = step - last_step, self._pending(frozen)
        if has_waited == had_waited:
            is_beside = self._is_beside(last_time, time)
            self._policy.ran(steps, time - last_time, share, is_beside)
        else:
            self._policy.ran(steps, None, share)
            if self._beside and last_time <= self._beside[0] < time:
                # Of such a time that is all that is known.
                self._policy.held_up(self._traced)
        self._timed = step, time, has_waited

    def _is_beside(self, began, ended):
        """Whether something was compiled beside training at that time."""
        if self._beside is None:
            return False
        first, last = self._beside
        if last == math.inf and not self._installation.is_preparing:
            last = self._clock()
            self._beside = first, last
        return began < last and first < ended

    def skip_time(self, step):
        """Leaves out the time since this step ended."""
        self._timed = step, self._clock(), True

    def decide(self, step, frozen, rest_at, stop):
        """Decides whether to rebuild before the next step.

        Args:
            step: Integer, the last step taken.
            frozen: Boolean array of shape `(n,)`.
            rest_at: Integer array of shape `(n,)`, the step at which each
                component freezes, or `None` if that is not known.
            stop: Integer, the step at which training ends, or `None`.

        Raises:
            ValueError: If something was frozen structurally, and is not
                frozen any more.
        """
        if (self._structural & ~frozen).any():
            raise ValueError(
                "Optimizer state was loaded in the middle of `fit()`, from "
                "before some components froze that the train step is made "
                "without. Load it before `fit()` begins, or use "
                "`recompile='never'`. Received: "
                f"{np.count_nonzero(frozen)} frozen components, after "
                f"{np.count_nonzero(self._structural)}"
            )
        if self._coming is not None:
            if frozen[self._coming].all():
                self._to_do = functools.partial(self._rebuild, self._coming)
            return
        ahead = None
        if rest_at is not None:
            seen_at = self._seen_at(rest_at)
            ahead = self._ahead(step, frozen, seen_at, stop)
        newly_frozen, share = self._pending(frozen)
        self._policy.kinds_of_batches = self._installation.kinds_of_batches
        is_due = self._policy.is_due(step, newly_frozen, share, ahead)
        # It goes by the time, which is another one on each host.
        model = self._installation.model
        if newly_frozen and backend.agree(model, is_due):
            self._to_do = functools.partial(self._rebuild, frozen)
        elif ahead is not None and self._installation.can_prepare:
            comes_in = self._policy.comes_in(ahead)
            if comes_in:
                self._coming = frozen | (seen_at <= step + comes_in)
                self._to_do = self._begin_to_compile

    def act(self):
        """Before a step: does what was decided."""
        if self._to_do is not None:
            to_do, self._to_do = self._to_do, None
            to_do()

    def _begin_to_compile(self):
        """Begins to compile what is coming, beside training."""
        if not self._installation.can_prepare:
            # Another `fit()` has begun meanwhile, and shown no batch yet.
            self._to_do = self._begin_to_compile
            return
        self._policy.compiles_beside()
        began = self._clock()
        self._installation.prepare(self._variables(self._coming))
        self._traced = self._clock() - began
        self._beside = began, math.inf

    def _rebuild(self, frozen):
        """Makes logical freezes structural."""
        began = self._clock()
        self._installation.freeze(self._variables(frozen))
        self._policy.held_up(self._clock() - began)
        self._policy.rebuilt(*self._pending(frozen))
        self._structural = frozen
        self._coming = self._beside = None
        if not self._policy.rebuilds_left:
            warnings.warn(
                "The train step cannot be rebuilt once more, or the compiler "
                "would give up on it. Components that freeze from here on "
                "keep their values as exactly, but save no time until the end "
                "of `fit()`. Use `recompile` with a larger number, to rebuild "
                "for more components at once.",
                stacklevel=4,
            )

    def _variables(self, frozen):
        return frozen_variables(self._components, self._followers, frozen)

    def timing(self):
        """Dict of what compiling took, and rebuilds have saved."""
        return self._policy.timing()

    def _pending(self, frozen):
        """Counts components frozen only logically, and their work."""
        share = self._work.share(frozen) - self._work.share(self._structural)
        return np.count_nonzero(frozen & ~self._structural), share

    def _seen_at(self, rest_at):
        """The step of the first look at which each is frozen."""
        every = steps_between_looks(self.total_steps)
        # What never rests wraps around, and is left out.
        return np.where(rest_at < NEVER, -(-rest_at // every) * every, NEVER)

    def _ahead(self, step, frozen, seen_at, stop):
        # A look is read at the next one.
        last = stop - steps_between_looks(self.total_steps)
        coming = np.unique(seen_at)
        steps = [step, *coming[(coming > step) & (coming < last)]]
        pending = [self._pending(frozen | (seen_at <= s)) for s in steps]
        counts, shares = map(list, zip(*pending))
        steps = [int(s) - step for s in steps]
        return Ahead(steps, shares, counts, stop - step)
