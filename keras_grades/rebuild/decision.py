"""When to make freezes structural: a rebuilt step is faster, but not free."""

import collections
import math

from keras_grades.rebuild.ahead import best_rebuilds
from keras_grades.rebuild.costs import SavingEstimate

# Of the cost of a rebuild, the share that may be lost before it is paid, once
# no component newly freezes.
HESITATION = 0.25
# The median of so many times is that of a step.
REMEMBERED = 101


def is_worth_it(cost, saving, remaining, lost, lost_since_last):
    """Whether to rebuild the train step now.

    This is the ski-rental problem: keep paying a little each step, or pay
    once; and how many steps there will be is only predicted, since training
    stops when everything has converged. After Purohit et al. (2018,
    "Improving online algorithms via ML predictions") it trusts the
    prediction, but only once a share h (`HESITATION`) of the cost has been
    lost since the last freeze. Where freezes keep coming, so may the end,
    and it waits until the whole cost has been lost, as one does who predicts
    nothing. Compared with the best choice in hindsight, which loses
    `min(cost, saving * steps that were left)`, it loses

    - never more, if the predicted saving does not cover the cost,
    - at most 1 + h times as much, if training goes on as predicted, and some
      twice as much, if freezes keep coming,
    - at most 1 + 1 / h times as much, if it stops at the worst moment, right
      after the rebuild.

    The wait also collects freezes that come one by one into one rebuild.

    Args:
        cost: Float, seconds that a rebuild takes.
        saving: Float, seconds a step that it will save.
        remaining: Float, steps that remain, `inf` if unknown.
        lost: Float, seconds that a rebuild at the first of these freezes
            would have saved so far.
        lost_since_last: Float, the part of `lost` since the last of them.

    Returns:
        Boolean.
    """
    if saving <= 0 or saving * remaining <= cost:
        return False
    return lost_since_last >= HESITATION * cost or lost >= cost


class RebuildPolicy:
    """Decides when to rebuild the train step, by the time of steps.

    Args:
        mode: `"always"`, `"never"`, `"auto"` or an integer, the number of
            newly frozen components at which to rebuild.
        total_steps: Integer, the planned steps, or None.
        rebuild_is_free: Boolean, whether nothing is compiled.
        max_rebuilds: Integer or infinity, how many there may be.
    """

    def __init__(self, mode, total_steps, rebuild_is_free, max_rebuilds):
        self.mode = mode
        self.rebuilds_left = max_rebuilds
        self.compilations = []
        self._estimate = SavingEstimate()
        self.total_steps = total_steps
        self._rebuild_is_free = rebuild_is_free
        # Out of the train step: components, and the share of its work that
        # the last rebuild took out.
        self._frozen = 0
        self._newest_share = 0.0
        # Components frozen only logically, and the time that they have cost:
        # in all, and when the last of them had just been seen.
        self._newly_frozen = 0
        self._lost = 0.0
        self._lost_at_last = 0.0
        self._saved = 0.0
        self._step_seconds = collections.deque(maxlen=REMEMBERED)
        # What a compilation costs, and a rebuild whose compilations are made
        # beside training, once that is known; and by how much training was
        # held up for the next.
        self._seconds = self._cost_beside = math.inf
        # A rebuilt step is compiled for each.
        self.kinds_of_batches = 1
        self._is_beside = False
        self._held_up = 0.0

    @property
    def may_rebuild(self):
        """Boolean, whether the train step may be rebuilt once more."""
        return self.mode != "never" and self.rebuilds_left > 0

    @property
    def _cost(self):
        return self._seconds * self.kinds_of_batches

    def compiled(self, step, seconds):
        """Tells how long the first call of a train function took."""
        seconds += max(0.0, self._held_up)
        if self._rebuild_is_free:
            seconds = 0.0
        if self._is_beside:
            self._cost_beside = seconds
        else:
            self._seconds = seconds
        self._is_beside, self._held_up = False, 0.0
        of_last = self.compilations[-1]["frozen"] if self.compilations else None
        if of_last == self._frozen:
            # Once more, for another plan. A step takes as long as before.
            self.compilations[0]["seconds"] += seconds
            return
        self.compilations.append(
            {
                "step": step,
                "seconds": seconds,
                "frozen": self._frozen,
                "step_seconds_before": self.step_seconds,
                "step_seconds_after": None,
            }
        )
        self._step_seconds.clear()

    def compiles_beside(self):
        """Tells that the next one is compiled beside training."""
        self._is_beside, self._held_up = True, 0.0

    def held_up(self, seconds):
        """Tells by how much a rebuild holds training up, or less than none."""
        self._held_up += seconds

    def ran(self, steps, seconds, share, is_beside=False):
        """Tells how long some steps took.

        Args:
            steps: Integer.
            seconds: Float, or `None` where that is not known.
            share: Float, the share of a step's work that they did for
                nothing: for components frozen only logically.
            is_beside: Boolean, whether something was compiled beside them.
                Defaults to `False`.
        """
        if is_beside and self.step_seconds is not None:
            # By how much it slows training down is a part of its cost.
            self.held_up(seconds - steps * self.step_seconds)
        elif seconds is not None:
            self._step_seconds.append(seconds / steps)
        if self.step_seconds is None:
            return
        self._lost += steps * self._estimate.seconds(share, self.step_seconds)
        if self.compilations:
            self._compare(self.compilations[-1], steps)

    def _compare(self, last, steps):
        """Compares the steps since a compilation with those before."""
        is_first = last["step_seconds_after"] is None
        last["step_seconds_after"] = self.step_seconds
        if last["step_seconds_before"] is None:
            return
        if is_first:
            self._estimate.observe(
                self._newest_share,
                last["step_seconds_before"],
                self.step_seconds,
            )
        full = self.compilations[0]["step_seconds_after"]
        if full is not None:
            self._saved += (full - self.step_seconds) * steps

    @property
    def step_seconds(self):
        """Median seconds a step of late, since the last rebuild, or None."""
        if not self._step_seconds:
            return None
        return sorted(self._step_seconds)[len(self._step_seconds) // 2]

    def is_due(self, step, newly_frozen, share, ahead=None):
        """Whether to rebuild now.

        Args:
            step: Integer, the last step taken.
            newly_frozen: Integer, components that are frozen only logically.
            share: Float, the share of a step's work that is done for them.
            ahead: `Ahead`, or `None` where the rest is not known. Defaults to
                `None`.
        """
        if newly_frozen > self._newly_frozen:
            self._newly_frozen = newly_frozen
            self._lost_at_last = self._lost
        if not newly_frozen or not self.may_rebuild:
            return False
        if self._is_enough(newly_frozen):
            return True
        if self.mode != "auto" or self.step_seconds is None:
            return False
        if ahead is not None:
            return self._planned(ahead) == 0
        total = float("inf") if self.total_steps is None else self.total_steps
        saving = self._estimate.seconds(share, self.step_seconds)
        return is_worth_it(
            cost=self._cost,
            saving=saving,
            remaining=total - step,
            lost=self._lost,
            lost_since_last=self._lost - self._lost_at_last,
        )

    def _is_enough(self, newly_frozen):
        """Whether to rebuild for so many, whatever that takes."""
        if self.mode == "always" or self._rebuild_is_free:
            return True
        return self.mode != "auto" and newly_frozen >= self.mode

    def comes_in(self, ahead):
        """In how many steps to rebuild next, compiled beside training.

        Returns:
            Integer, or `None` for not at all, or where that holds training up
            for longer than to compile when it is needed.

        Args:
            ahead: `Ahead`.
        """
        is_dearer = self._cost < self._cost_beside < math.inf
        if not self.may_rebuild or self._rebuild_is_free or is_dearer:
            return None
        if self.mode == "auto":
            is_timed = self.step_seconds is not None
            return self._planned(ahead) if is_timed else None
        enough = 1 if self.mode == "always" else self.mode
        coming = zip(ahead.steps, ahead.counts)
        return next((s for s, count in coming if count >= enough), None)

    def _planned(self, ahead):
        """The first of the best rebuilds, as of now: in how many steps."""
        savings = [
            self._estimate.seconds(share, self.step_seconds)
            for share in ahead.shares
        ]
        costs = [self._cost_in(steps) for steps in ahead.steps]
        chosen = best_rebuilds(ahead.steps, savings, ahead.end, costs)
        return ahead.steps[chosen[0]] if chosen else None

    def _cost_in(self, steps):
        """What a rebuild costs that is known so many steps ahead."""
        is_in_time = steps * self.step_seconds >= self._cost
        return min(self._cost, self._cost_beside) if is_in_time else self._cost

    def rebuilt(self, newly_frozen, share):
        """Tells that more is structurally frozen now.

        Before the first compilation nothing is rebuilt: savings are counted
        from there.

        Args:
            newly_frozen: Integer, the components that are.
            share: Float, the share of a step's work that is gone.
        """
        self._frozen += newly_frozen
        if self.compilations:
            self.rebuilds_left -= 1
            self._newest_share = share
        self._newly_frozen = 0
        self._lost = self._lost_at_last = 0.0

    def timing(self):
        """What `FreezeReport` shows; savings are without the rebuilds."""
        return {
            "compilations": [dict(c) for c in self.compilations],
            "seconds_saved_measured": self._saved,
            "why_not_rebuilt": self._why_not_rebuilt(),
        }

    def _why_not_rebuilt(self):
        """Why there was no rebuild, or `None` if there was, or no need."""
        if not self._newly_frozen or len(self.compilations) != 1:
            return None
        if self.mode == "never":
            return "recompile='never'"
        if not self.rebuilds_left:
            return "the train step cannot be rebuilt here"
        if self._is_enough(self._newly_frozen):
            return "training ended when they froze"
        if self.mode != "auto":
            return f"recompile={self.mode!r}"
        cost = f"a rebuild takes some {self._cost:.1f} s"
        if self.total_steps is None:
            return f"{cost}, and how many steps there will be is not known"
        return f"{cost}, and might have saved {self._lost:.1f} s"
