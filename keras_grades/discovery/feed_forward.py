"""Which matrices are a feed-forward network: to another width, and back.

A gated one has two that go up, or one that is twice as wide as what comes
back. Of two the one that says so is the gate, or the first.
"""

from keras_grades.discovery.attention import words


def feed_forward_roles(matrices):
    """The role of each matrix that is part of a feed-forward network.

    Args:
        matrices: List of `Matrix` that one layer holds, in order.

    Returns:
        List of lists, one a network, of pairs of `Matrix` and role.
    """
    candidates = [m for m in matrices if not m.is_convolution]
    networks, used = [], set()
    for i, down in enumerate(candidates):
        ups = [
            up
            for up in candidates[:i]
            if id(up) not in used and _goes_up(up, down)
        ]
        if ups and id(down) not in used:
            networks.append(network(ups[-2:], down))
            used.update(id(m) for m in [*ups, down])
    return networks or _out_of_order(candidates)


def _out_of_order(candidates):
    """A layer may well create the way back before its gate."""
    for down in candidates:
        ups = [m for m in candidates if m is not down and _goes_up(m, down)]
        if ups and down.width_in != down.width_out:
            return [network(ups[-2:], down)]
    return []


def _goes_up(up, down):
    return (
        up.is_stack == down.is_stack
        and up.width_in == down.width_out
        and up.width_out in (down.width_in, 2 * down.width_in)
    )


def network(ups, down):
    """Pairs the matrices of one network with their roles."""
    if len(ups) == 2:
        gate = next((m for m in ups if _says_gate(m)), ups[0])
        roles = ["ffn_gate" if m is gate else "ffn_up" for m in ups]
    else:
        fused = ups[0].width_out == 2 * down.width_in
        roles = ["ffn_gate_up" if fused else "ffn_up"]
    return [*zip(ups, roles), (down, "ffn_down")]


def _says_gate(matrix):
    found = set().union(*map(words, matrix.names))
    return bool(found & {"gate", "gating", "gated"})


def is_adapter(pairs):
    """Whether it does not go wider, and has no gate: if so, it is one only
    beside a feed-forward network that does."""
    down, _ = pairs[-1]
    return (
        len(pairs) == 2
        and not down.is_stack
        and down.width_in <= down.width_out
    )
