"""Which layers are attention, and what their projections do.

An attention layer holds projections to queries, keys and values, by
themselves or fused. Its projections matter more than its name.
"""

import re

from keras_grades.discovery.feed_forward import feed_forward_matrices
from keras_grades.discovery.tree import words

QUERY = {"q", "query", "queries", "wq"}
KEY = {"k", "key", "keys", "wk"}
VALUE = {"v", "value", "values", "wv"}
FUSED = {"qkv", "wqkv", "qkvz", "kv", "wkv"}
OUTPUT = {"o", "out", "output", "wo"}
PROJECTION = {"proj", "projection", "projector"}
SAYS_NOTHING = {"attention", "attn", "c", "dense", "layer", "linear"}
POSITIONS = {"encoding", "pos", "position", "positional", "rel", "relative"}


def named_role(name):
    """The role that a name tells, or None."""
    found = words(name)
    if found & FUSED or len(_inputs(found)) > 1:
        return "qkv"
    if _inputs(found):
        return _inputs(found)[0]
    plain = found & PROJECTION and found <= PROJECTION | SAYS_NOTHING
    if (found & OUTPUT and not found & POSITIONS) or plain:
        return "attention_output"
    return None


def _inputs(found):
    roles = {"query": QUERY, "key": KEY, "value": VALUE}
    return [role for role, spelled in roles.items() if found & spelled]


def is_pooler(node):
    """Whether a layer condenses a sequence, with or without attention."""
    return "Pool" in type(node.layer).__name__


def attention_roles(node):
    """The role of each projection that a layer holds, if it is attention.

    Returns:
        List of pairs of `Matrix` and role; empty if it is something else.
    """
    if node.is_projection:
        return []
    matrices = node.direct_matrices
    named = [(m, _role(m)) for m in matrices]
    roles = {role for _, role in named if role}
    is_attention = (
        {"query", "key", "value"} <= roles
        or "qkv" in roles
        # Keys and values may be another layer's.
        or ("query" in roles and "Attention" in type(node.layer).__name__)
    )
    if not is_attention:
        return _unnamed_attention(node)
    network = _feed_forward_within(named)
    pairs = [p for p in named if p[1] and p[0] not in network]
    for matrix, role in named:
        if (
            role is None
            and matrix not in network
            and _is_full_size_extra(matrix, pairs)
        ):
            pairs.append((matrix, _role_of_extra(matrix)))
    return pairs


def one_by_one(pairs):
    """Divides attention that goes by its names: a role that comes again
    begins the next."""
    units = []
    for matrix, role in pairs:
        if not units or (
            role != "attention_output" and role in {r for _, r in units[-1]}
        ):
            units.append([])
        units[-1].append((matrix, role))
    return units


def _role(matrix):
    return next(filter(None, map(named_role, matrix.names)), None)


def _feed_forward_within(named):
    """The feed-forward matrices that the same layer holds.

    They may have names that elsewhere mean a way out of attention; the first
    such name is taken at its word.
    """
    outputs = [m for m, role in named if role == "attention_output"]
    others = [m for m, role in named if role is None or m in outputs[1:]]
    return feed_forward_matrices(others)


def _is_full_size_extra(matrix, pairs):
    """Whether it reads and makes as much as the others.

    Not so a gate with a number per head, a table or a convolution.
    """
    inputs = [m for m, role in pairs if role != "attention_output"]
    outputs = [m for m, role in pairs if role == "attention_output"]
    widths = {m.width_out for m, role in pairs if role in ("value", "qkv")}
    return (
        matrix.node.is_projection
        and not matrix.is_convolution
        and matrix.width_in in {m.width_in for m in inputs}
        and matrix.width_out in widths | {m.width_in for m in outputs}
    )


def _role_of_extra(matrix):
    """Projected positions act as keys; anything else gates the output."""
    found = set().union(*map(words, matrix.names))
    return "key" if found & POSITIONS else "attention_output"


def _unnamed_attention(node):
    """One projection three times as wide as its input, and one back.

    Both may do the work of a feed-forward network, too, as in parallel blocks:
    then both are wider by its inner width.
    """
    matrices = [m for m in node.direct_matrices if not m.is_convolution]
    fused = [m for m in matrices if _back_from(m, matrices) is not None]
    if len(fused) > 1 or not _is_called_attention(node):
        fused = [m for m in fused if _says_attention(*m.names)]
    if len(fused) != 1:
        return []
    back = _back_from(fused[0], matrices)
    return [(fused[0], "qkv")] + [(m, "attention_output") for m in back]


def _back_from(fused, matrices):
    """The ways back from a fused projection, `None` if it is none."""
    width = fused.width_in
    inner = fused.width_out - 3 * width
    if inner < 0:
        return None
    back = [
        m
        for m in matrices
        if m.width_in == width + inner and m.width_out == width
    ]
    return back if not inner or len(back) == 1 else None


def _is_called_attention(node):
    """Whether the layer says so, or what it attends with, without weights."""
    tools = [c.layer for c in node.children if not c.layer.weights]
    kinds = [type(layer).__name__ for layer in (node.layer, *tools)]
    return _says_attention(node.attribute, *kinds)


def _says_attention(*names):
    return any(re.search("attention|attn", name.lower()) for name in names)
