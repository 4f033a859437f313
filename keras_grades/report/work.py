"""How much work freezing makes needless, in parameters times steps."""


def parameters(components):
    """The number of parameters of some components."""
    return sum(c.size for c in components)


def estimate_work_saved(components, steps, total_steps=None):
    """Estimates the share of weight-gradient work that freezing makes needless.

    The weight gradient of a dense matrix costs operations in proportion to
    its parameters times the tokens it sees. Here the tokens are taken to be
    as many for every component at every step, so that the work of one
    component at one step is its number of parameters. That is rough where
    they differ: between the towers of a model, or for stacks of experts, each
    of which sees some of the tokens only.

    A component does its work up to and including the step `frozen_at`. The
    share is that of all components at all steps, so the work of the forward
    pass, of the gradients of activations and of what is not a component does
    not count on either side.

    It is what would be saved if each component left the train step as soon as
    it froze, hence an upper bound: until the train step is rebuilt
    (`GradES(recompile=...)`) the gradient of a frozen component is still
    computed and thrown away.

    Args:
        components: Sequence of `Component`.
        steps: Integer, the steps run.
        total_steps: Integer, the steps planned. Those that were not run count
            as saved. `None` compares with the steps run. Defaults to `None`.

    Returns:
        Float in [0, 1].
    """
    done = sum(c.size * _steps_trained(c, steps) for c in components)
    full = parameters(components) * max(steps, total_steps or 0)
    return 1 - done / full if full else 0.0


def _steps_trained(component, steps):
    if component.frozen_at is None:
        return steps
    return min(component.frozen_at, steps)
