"""What GradES says: a line where it begins, one where it ends, a warning."""

import logging
import shutil
import sys
import textwrap

import keras


def show(message, level, verbose, verbose_of_fit, in_epoch):
    """Prints a message, or logs it where Keras is not interactive.

    Args:
        message: String.
        level: Integer, the lowest verbosity at which it is shown.
        verbose: Integer, the verbosity, or `"auto"`: that of `fit()`, 1 at
            most.
        verbose_of_fit: Integer, or `"auto"`, which Keras takes for 1.
        in_epoch: Boolean, whether it is said in the middle of an epoch.
    """
    verbose = bool(verbose_of_fit) if verbose == "auto" else verbose
    if verbose < level:
        return
    message = f"GradES: {message}"
    if not keras.config.is_interactive_logging_enabled():
        logging.getLogger("keras_grades").info(message)
        return
    if is_in_terminal():
        message = textwrap.fill(message, shutil.get_terminal_size().columns)
    # The cursor is at the end of Keras's progress bar.
    is_in_bar = verbose_of_fit in (1, "auto") and in_epoch
    print(f"\n{message}" if is_in_bar else message, flush=True)


def is_in_terminal():
    """Whether one shows what is printed; a stand-in for it may not know."""
    return hasattr(sys.stdout, "isatty") and sys.stdout.isatty()


def beginning(components, monitor, rule, total_steps, horizon_is_guessed):
    """What is watched, by what, and when it may freeze.

    Args:
        components: List of `Component`.
        monitor: Name of the monitor, or an instance.
        rule: `Rule`.
        total_steps: Integer, the planned steps, or `None`.
        horizon_is_guessed: Boolean, whether the monitor has a horizon for
            want of anything that tells how long it should be.
    """
    if not isinstance(monitor, str):
        monitor = type(monitor).__name__
    if horizon_is_guessed:
        monitor += (
            f" over {rule.monitor.horizon} steps, since neither the length of "
            "an epoch nor a plan is known: pass `steps_per_epoch` to `fit()`, "
            "or `horizon`"
        )
    n, blocks = len(components), len({c.block for c in components})
    when = _when(rule, total_steps)
    return f"{n} components in {blocks} blocks, by {monitor}; {when}."


def _when(rule, total_steps):
    first, deadline = rule.first_convergence, rule.criterion.deadline
    if total_steps and first > total_steps:
        return (
            f"nothing can freeze: the first step that may is {first}, and "
            f"{total_steps} are planned"
        )
    of = _of_total(total_steps)
    if deadline and first == deadline:
        return f"all settle from step {deadline}{of} on"
    when = f"nothing freezes before step {first}{of}"
    if deadline:
        when += f", and all settle from step {deadline} on, or sooner"
    return when


def going_on(components, step, total_steps):
    """Where a run goes on."""
    of = _of_total(total_steps)
    return f"goes on after step {step}{of}, {_frozen_of(components)}."


def freezing(components, newly_frozen, step):
    """What froze: a line for each block.

    Args:
        components: List of `Component`.
        newly_frozen: List of those that froze since the last look.
        step: Integer, that of this look.
    """
    for block in dict.fromkeys(c.block for c in newly_frozen):
        frozen = _frozen_of([c for c in components if c.block == block])
        yield f"by step {step} {frozen} in {block}."


def settling(since, stop, total_steps):
    """When `fit()` will stop, as all that has converged comes to rest.

    Args:
        since: Integer, the step at which enough had converged.
        stop: Integer, the step after which enough will be frozen.
        total_steps: Integer, the planned steps, or `None`.
    """
    if total_steps and stop > total_steps:
        return (
            f"settles from step {since} on, until step {stop}, and "
            f"{total_steps} are planned."
        )
    of = _of_total(total_steps)
    return f"settles from step {since} to {stop}{of}; then fit() stops."


def ending(components, step, total_steps, has_stopped, reason):
    """Where a run ended, and why.

    Args:
        components: List of `Component`.
        step: Integer, the last step.
        total_steps: Integer, the planned steps, or `None`.
        has_stopped: Boolean, whether it ended because enough had converged.
        reason: String, of the criterion.
    """
    is_early = has_stopped and step != total_steps
    how, of = "stopped" if is_early else "ended", _of_total(total_steps)
    where = f"{how} at step {step}{of}, {_frozen_of(components)}."
    return f"{where} {reason}".rstrip()


def too_short(first, for_grace):
    """Why nothing froze in a run that ended before it might have.

    Args:
        first: Integer, the first step that may freeze.
        for_grace: Boolean, whether that is so by the grace period.
    """
    other = ", or choose a smaller `alpha`" if for_grace else ""
    return f"Nothing could freeze before step {first}. Train longer{other}."


def cut_short(stop):
    """What a run adds that ended before all had come to rest.

    Args:
        stop: Integer, the step after which enough would have been frozen.
    """
    return f"Settling, to step {stop}, was cut short."


def unplanned(updates, batches, are_too_many):
    """A warning: the plan counts batches.

    Args:
        updates: Integer, updates so far.
        batches: Integer, batches so far.
        are_too_many: Boolean, whether more updates than planned are made, and
            not fewer.
    """
    seen = (
        f"GradES has seen {updates} updates of its optimizer in {batches} "
        "batches. "
    )
    if are_too_many:
        return seen + (
            "The plan counts fewer, so what goes by it, as the end, comes too "
            "early. Choose a monitor that needs no plan, with a tau "
            'of your own: `GradES(tau=..., monitor="gradient")`, and `alpha` '
            "as an integer, a number of updates."
        )
    return seen + (
        "If `train_step` uses optimizers of its own, name the one to "
        "watch: `GradES(optimizer='generator_optimizer')`. If it accumulates "
        "gradients by hand, the plan counts too many steps: "
        "pass `alpha` as an integer, a number of updates, or use "
        "`gradient_accumulation_steps` of the optimizer."
    )


def _frozen_of(components):
    frozen = sum(c.frozen_at is not None for c in components)
    return f"{frozen} of {len(components)} components frozen"


def _of_total(total_steps):
    return f" of {total_steps}" if total_steps else ""
