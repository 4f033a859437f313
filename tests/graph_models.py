"""Transformers as people write them, as functional graphs; the builders note
what they create."""

import keras
from discovered import LENGTH
from discovered import WIDTH
from keras import layers
from keras import ops
from written_models import attention_layer
from written_models import keras_projections


def graph_block(x, attention, ups, down):
    """A block as calls in a functional graph, without a layer for it."""
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, attention(y, y)])
    y = layers.LayerNormalization()(x)
    projected = [up(y) for up in ups]
    y = layers.Multiply()(projected) if len(ups) == 2 else projected[0]
    return layers.Add()([x, down(layers.Dropout(0.1)(y))])


def graph(blocks, nested=False):
    """A functional classifier over (attention, ups, down), and its parts."""
    inputs = keras.Input((LENGTH, 5))
    x = layers.Dense(WIDTH)(inputs)
    for block in blocks:
        if nested:
            held = keras.Input((LENGTH, WIDTH))
            x = keras.Model(held, graph_block(held, *block))(x)
        else:
            x = graph_block(x, *block)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(16, "relu")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    parts = []
    for attention, ups, down in dict.fromkeys(blocks):
        parts += keras_projections(attention)
        parts += zip(
            ["ffn_gate", "ffn_up"] if len(ups) == 2 else ["ffn_up"], ups
        )
        parts += [("ffn_down", down)]
    return model, parts


def graph_parts(gated=False, hidden=16, kind="MultiHeadAttention", **arguments):
    ups = [layers.Dense(hidden, "silu", **arguments)]
    if gated:
        ups.append(layers.Dense(hidden, **arguments))
    down = layers.Dense(WIDTH, **arguments)
    return attention_layer(kind, **arguments), tuple(ups), down


def graph_of_convolutions():
    """Dense layers, written as convolutions over one token."""
    blocks = [
        (
            attention_layer("MultiHeadAttention"),
            (layers.Conv1D(4, 1, activation="relu"),),
            layers.Conv1D(WIDTH, 1),
        )
        for _ in range(2)
    ]
    return graph(blocks)


def graph_with_activation(first):
    """The gate is what an activation comes after, whichever is first."""
    attention = attention_layer("MultiHeadAttention")
    ups = [layers.Dense(16), layers.Dense(16)]
    down = layers.Dense(WIDTH)
    inputs = keras.Input((LENGTH, WIDTH))
    x = inputs + attention(inputs, inputs)
    gate, up = ups if first else ups[::-1]
    ys = [layer(x) for layer in ups]
    y = ops.silu(ys[ups.index(gate)]) * ys[ups.index(up)]
    model = keras.Model(inputs, layers.Dense(3)(x + down(y)))
    in_order = [layer for layer in model.layers if layer in ups]
    roles = {id(gate): "ffn_gate", id(up): "ffn_up"}
    return model, [
        *keras_projections(attention),
        *((roles[id(layer)], layer) for layer in in_order),
        ("ffn_down", down),
    ]


def residual(x, *branch):
    """A sum with what layers in a row make of x."""
    y = layers.LayerNormalization()(x)
    for layer in branch:
        y = layer(y)
    return layers.Add()([x, y])


def graph_of_branches(*blocks):
    """A graph of (widths of the hidden layers, width of an adapter).

    The adapter is beside the feed-forward network, of which it is no part.
    """
    inputs = keras.Input((LENGTH, 5))
    x, parts = layers.Dense(WIDTH)(inputs), []
    for hidden, adapter in blocks:
        attention = attention_layer("MultiHeadAttention")
        ups = [layers.Dense(width, "relu") for width in hidden]
        down = layers.Dense(WIDTH)
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, attention(y, y)])
        x = residual(x, *ups, layers.Dropout(0.1), down)
        if adapter:
            x = residual(x, layers.Dense(adapter), layers.Dense(WIDTH))
        parts += keras_projections(attention)
        parts += [("ffn_up", up) for up in ups] + [("ffn_down", down)]
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x)), parts


def graph_that_normalizes_twice():
    """Before and after each branch."""
    inputs = keras.Input((LENGTH, WIDTH))
    x, parts = inputs, []
    for _ in range(2):
        attention, (up,), down = graph_parts()
        y = layers.LayerNormalization()(x)
        x = x + layers.RMSNormalization()(attention(y, y))
        x = residual(x, up, down, layers.RMSNormalization())
        parts += keras_projections(attention)
        parts += [("ffn_up", up), ("ffn_down", down)]
    return keras.Model(inputs, layers.Dense(3)(x)), parts


def by_layer(kind):
    return lambda query, key, value: kind()([query, value, key])


def by_operation(query, key, value):
    heads = [layers.Reshape((LENGTH, 2, 4))(x) for x in (query, key, value)]
    return layers.Reshape((LENGTH, WIDTH))(ops.dot_product_attention(*heads))


def by_products(query, key, value):
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) / WIDTH**0.5
    return ops.matmul(layers.Dropout(0.1)(ops.softmax(scores)), value)


def by_einsum(query, key, value):
    scores = ops.einsum("bqd,bkd->bqk", query, key) + ops.ones((LENGTH, LENGTH))
    return ops.einsum("bqk,bkd->bqd", layers.Softmax()(scores), value)


def by_dot(query, key, value):
    scores = layers.Dot(axes=(2, 2))([query, key])
    scores = layers.Activation("softmax")(scores)
    return layers.Dot(axes=(2, 1))([scores, value])


def graph_that_attends(attend, fused=False):
    """Attention of layers without a name, and of nothing that holds them."""
    inputs = keras.Input((LENGTH, 5))
    x, parts = layers.Dense(WIDTH)(inputs), []
    for hidden in (4, 16):
        y = layers.LayerNormalization()(x)
        if fused:
            projections = [("qkv", layers.Dense(3 * WIDTH))]
            query, key, value = ops.split(projections[0][1](y), 3, axis=-1)
        else:
            names = ("query", "key", "value")
            projections = [(name, layers.Dense(WIDTH)) for name in names]
            query, key, value = (layer(y) for _, layer in projections)
        out, up, down = (layers.Dense(n) for n in (WIDTH, hidden, WIDTH))
        x = layers.Add()([x, out(attend(query, key, value))])
        x = residual(x, up, down)
        parts += [*projections, ("attention_output", out)]
        parts += [("ffn_up", up), ("ffn_down", down)]
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(WIDTH)(x))
    # The longest way to where they meet comes first.
    place = {id(layer): i for i, layer in enumerate(model.layers)}
    return model, sorted(parts, key=lambda part: place[id(part[1])])
