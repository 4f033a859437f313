"""Which rebuilds save most, where it is known ahead what freezes when."""

from typing import NamedTuple


class Ahead(NamedTuple):
    """What is known of the rest of a run.

    Attributes:
        steps: List of integers, in ascending order: the steps, counted from
            now, at which a rebuild would take out more than before.
        shares: List of as many floats, the share of a step's work that it
            would take out.
        counts: List of as many integers, the components that it would.
        end: Integer, the steps that are left.
    """

    steps: list[int]
    shares: list[float]
    counts: list[int]
    end: int


def best_rebuilds(steps, savings, end, costs):
    """Chooses the steps at which to rebuild the train step.

    A rebuild saves time from its step on, until the next one saves more. So
    the most that can be gained from a rebuild on follows from what can be
    gained from each later one on: a dynamic programme.

    Args:
        steps: List of m integers, in ascending order.
        savings: List of m floats, seconds a step that a rebuild there saves.
        end: Integer, the step at which training ends.
        costs: List of m floats, seconds that a rebuild there takes.

    Returns:
        List of places in `steps`, empty if no rebuild pays.
    """
    gains, following = [0.0] * len(steps), [0] * len(steps)
    for i in reversed(range(len(steps))):
        later = {
            j: gains[j] + savings[i] * (steps[j] - steps[i])
            for j in range(i + 1, len(steps))
        }
        later[len(steps)] = savings[i] * (end - steps[i])
        following[i] = max(later, key=later.__getitem__)
        gains[i] = later[following[i]] - costs[i]
    if max(gains, default=0.0) <= 0:
        return []
    chosen = [gains.index(max(gains))]
    while (place := following[chosen[-1]]) < len(steps):
        chosen.append(place)
    return chosen
