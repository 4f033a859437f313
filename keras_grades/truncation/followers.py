"""Variables that are frozen with components above them.

When every component of the lowest blocks is frozen, to go on training their
norms and biases and the embeddings below gains nothing, and only if they are
frozen too does the backward pass end above them.
"""

import warnings

from keras_grades.component import Followers
from keras_grades.discovery import find_components
from keras_grades.truncation.data_flow import DataFlow
from keras_grades.validation import excerpt

UNPLACED = (
    "`truncate_backward` cannot know what lies below these variables, which "
    "are not in a functional graph, and leaves them in training, so the "
    "backward pass may not end above them"
)
TIED = (
    "`truncate_backward` cannot end the backward pass above these variables, "
    "which are used above the last block, too, as a table of embeddings that "
    "is tied to the output is: freeze them (`trainable = False`), or train "
    "without it. Received"
)


def find_followers(model, components):
    """Finds what may be frozen along with the components of lower blocks.

    A block that has a trainable projection which is not tracked is never
    done, and so is nothing that waits for it. Above what is trained to the
    end the backward pass goes on, so there is nothing to gain.

    Args:
        model: A built `keras.Model`.
        components: List of `Component`, those that are tracked.

    Returns:
        List of `Followers`.
    """
    projections = find_components(model)
    block_of = {id(v): c.block for c in projections for v in c.variables}
    tracked = {id(v) for c in components for v in c.variables}
    never_done = {b for v, b in block_of.items() if v not in tracked}
    flow = DataFlow(model, block_of)
    followers = {}
    waits_for = flow.blocks_to_wait_for()
    stays = flow.blocks_above_what_stays(waits_for)
    left_out = never_done.union(*stays.values())
    for variable in model.trainable_variables:
        blocks = waits_for.get(id(variable))
        if blocks and not blocks & left_out and id(variable) not in block_of:
            followers.setdefault(frozenset(blocks), []).append(variable)
    tied = [v for v in model.weights if id(v) in stays and flow.is_placed(v)]
    _warn_of(flow.unplaced, UNPLACED)
    _warn_of(tied, TIED)
    return [
        Followers(
            tuple(variables),
            tuple(i for i, c in enumerate(components) if c.block in blocks),
        )
        for blocks, variables in followers.items()
    ]


def _warn_of(variables, message):
    if variables:
        paths = sorted({v.path for v in variables})
        warnings.warn(f"{message}: {excerpt(paths)}", stacklevel=4)
