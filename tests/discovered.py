"""What a test of discovery compares: found and noted components."""

WIDTH = 8

LENGTH = 6


def describe(components):
    """What is compared: names, roles, blocks, and variables by identity."""
    return [
        (c.name, c.role, c.block, [id(v) for v in c.variables])
        for c in components
    ]


def roles(components):
    return [(c.name, c.role) for c in components]


def kernel_and_bias(layer):
    return [layer.kernel] + ([] if layer.bias is None else [layer.bias])


def expected(blocks):
    """From (block, [(path in the block, role, layer)]) to descriptions."""
    return [
        (f"{block}/{path}", role, block, [*map(id, kernel_and_bias(layer))])
        for block, parts in blocks
        for path, role, layer in parts
    ]


def attention_parts(path, attention):
    return [
        (f"{path}/query", "query", attention._query_dense),
        (f"{path}/key", "key", attention._key_dense),
        (f"{path}/value", "value", attention._value_dense),
        (
            f"{path}/attention_output",
            "attention_output",
            attention._output_dense,
        ),
    ]


def plain_parts(attention, block):
    return attention_parts(attention, block._self_attention_layer) + [
        (
            "feedforward_intermediate_dense",
            "ffn_up",
            block._feedforward_intermediate_dense,
        ),
        (
            "feedforward_output_dense",
            "ffn_down",
            block._feedforward_output_dense,
        ),
    ]


def found_parts(components):
    return [(c.role, [*map(id, c.variables)]) for c in components]


def noted_parts(parts):
    return [(role, [*map(id, kernel_and_bias(x))]) for role, x in parts]


def lora_pair(layer):
    return [id(layer.lora_kernel_a), id(layer.lora_kernel_b)]
