"""Transformers as people write them, by layers; the builders note what they
create."""

import keras
from discovered import LENGTH
from discovered import WIDTH
from keras import layers
from keras import ops


def attention_layer(kind, **arguments):
    if kind == "MultiHeadAttention":
        return layers.MultiHeadAttention(2, 4, **arguments)
    return layers.GroupQueryAttention(4, 2, 2, **arguments)


KERAS_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention")


def attend(query, key, value):
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
    return ops.matmul(ops.softmax(scores), value)


def attend_through(projections, x):
    """Attention with queries, keys and values by themselves, or fused."""
    *inputs, out = projections
    projected = [layer(x) for layer in inputs]
    if len(projected) == 1:
        projected = ops.split(projected[0], 3, axis=-1)
    return out(attend(*projected))


def feed_through(projections, x):
    """A feed-forward network, with a gate if there are two ways up."""
    *ups, down = projections
    x, *gated = [layer(x) for layer in ups]
    x = ops.silu(x)
    return down(x * gated[0] if gated else x)


class Attention(layers.Layer):
    """Attention by hand, with projections under any names."""

    def __init__(self, names=("query", "key", "value", "out"), **arguments):
        super().__init__()
        self.parts = dict(zip(names, ["query", "key", "value"]))
        if len(names) == 2:
            self.parts = {names[0]: "qkv"}
        if names:
            self.parts[names[-1]] = "attention_output"
        for name, role in self.parts.items():
            width = 3 * WIDTH if role == "qkv" else WIDTH
            setattr(self, name, layers.Dense(width, **arguments))

    def projections(self):
        return [(role, getattr(self, n)) for n, role in self.parts.items()]

    def call(self, x):
        return attend_through([layer for _, layer in self.projections()], x)


class FeedForward(layers.Layer):
    """A feed-forward network, plain or gated, under any names."""

    def __init__(self, names=("up", "down"), hidden=16, **arguments):
        super().__init__()
        self.parts = dict(zip(names, ["ffn_up", "ffn_down"]))
        if len(names) == 3:
            self.parts = dict(zip(names, ["ffn_gate", "ffn_up", "ffn_down"]))
        for name, role in self.parts.items():
            width = WIDTH if role == "ffn_down" else hidden
            setattr(self, name, layers.Dense(width, **arguments))

    def projections(self):
        return [(role, getattr(self, n)) for n, role in self.parts.items()]

    def call(self, x):
        return feed_through([layer for _, layer in self.projections()], x)


class DeepFeedForward(layers.Layer):
    """A feed-forward network with more than one hidden layer."""

    def __init__(self, hidden, gated=False):
        super().__init__()
        self.gate = layers.Dense(hidden[0]) if gated else None
        self.hidden = [layers.Dense(width) for width in hidden]
        self.down = layers.Dense(WIDTH)

    def projections(self):
        gate = [("ffn_gate", self.gate)] if self.gate else []
        ups = [("ffn_up", layer) for layer in self.hidden]
        return [*gate, *ups, ("ffn_down", self.down)]

    def call(self, x):
        y = self.hidden[0](x)
        if self.gate:
            y = y * ops.silu(self.gate(x))
        for layer in self.hidden[1:]:
            y = layer(ops.relu(y))
        return self.down(y)


class Block(layers.Layer):
    """Attention, then the feed-forward network, each with a residual."""

    def __init__(self, attention, feed_forward):
        super().__init__()
        self.norm_1 = layers.LayerNormalization()
        self.attention = attention
        self.norm_2 = layers.LayerNormalization()
        self.feed_forward = feed_forward

    def call(self, x):
        y = self.norm_1(x)
        if isinstance(self.attention, Attention):
            y = self.attention(y)
        else:
            y = self.attention(y, y)
        x = x + y
        return x + self.feed_forward(self.norm_2(x))


class FlatBlock(layers.Layer):
    """A block that holds all projections itself."""

    def __init__(
        self,
        attention_names=("query", "key", "value", "out"),
        feed_forward_names=("fc1", "fc2"),
        hidden=16,
        **arguments,
    ):
        super().__init__()
        self.norm_1 = layers.LayerNormalization()
        self.norm_2 = layers.LayerNormalization()
        # Not tracked: the layers are attributes of this one.
        parts = [
            Attention(attention_names, **arguments),
            FeedForward(feed_forward_names, hidden, **arguments),
        ]
        self.attention_names = list(parts[0].parts)
        self.parts = parts[0].parts | parts[1].parts
        for part in parts:
            for name in part.parts:
                setattr(self, name, getattr(part, name))

    def projections(self):
        return [(role, getattr(self, n)) for n, role in self.parts.items()]

    def call(self, x):
        n = len(self.attention_names)
        projections = [layer for _, layer in self.projections()]
        x = x + attend_through(projections[:n], self.norm_1(x))
        return x + feed_through(projections[n:], self.norm_2(x))


class Classifier(keras.Model):
    """A subclassed model: patches in, blocks, a head."""

    def __init__(self, blocks):
        super().__init__()
        self.embed = layers.Dense(WIDTH)
        self.blocks = blocks
        self.norm = layers.LayerNormalization()
        self.hidden = layers.Dense(16, activation="relu")
        self.head = layers.Dense(3)

    def call(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.hidden(self.norm(x)[:, 0]))


def keras_projections(attention):
    return [
        ("query", attention._query_dense),
        ("key", attention._key_dense),
        ("value", attention._value_dense),
        ("attention_output", attention._output_dense),
    ]


def subclassed(blocks):
    model = Classifier(blocks)
    model(keras.Input((LENGTH, 5)))
    return model


def hand_written_attention():
    blocks = [Block(Attention(), FeedForward()) for _ in range(2)]
    return subclassed(blocks), [
        pair
        for b in blocks
        for pair in b.attention.projections() + b.feed_forward.projections()
    ]


def sequential_feed_forward():
    blocks = [
        Block(
            attention_layer("MultiHeadAttention"),
            keras.Sequential([layers.Dense(16, "relu"), layers.Dense(WIDTH)]),
        )
        for _ in range(2)
    ]
    return subclassed(blocks), [
        pair
        for b in blocks
        for pair in keras_projections(b.attention)
        + [*zip(["ffn_up", "ffn_down"], b.feed_forward.layers)]
    ]


def deep_feed_forward(*widths, gated=False):
    blocks = [Block(Attention(), DeepFeedForward(w, gated)) for w in widths]
    return subclassed(blocks), [
        pair
        for b in blocks
        for pair in b.attention.projections() + b.feed_forward.projections()
    ]


class Head(layers.Layer):
    """One head; the way out of attention is the layer's that holds all."""

    def __init__(self, width=4):
        super().__init__()
        self.key, self.query, self.value = (layers.Dense(width) for _ in "kqv")

    def projections(self):
        names = ("key", "query", "value")
        return [(name, getattr(self, name)) for name in names]

    def call(self, x):
        return attend(self.query(x), self.key(x), self.value(x))


class Heads(Attention):
    """Attention, written out head by head."""

    def __init__(self):
        super().__init__(names=())
        self.heads = [Head() for _ in range(2)]
        self.proj = layers.Dense(WIDTH)

    def projections(self):
        pairs = [pair for head in self.heads for pair in head.projections()]
        return [*pairs, ("attention_output", self.proj)]

    def call(self, x):
        return self.proj(ops.concatenate([h(x) for h in self.heads], axis=-1))


def heads_one_by_one():
    block = Block(Heads(), FeedForward())
    return subclassed([block]), (
        block.attention.projections() + block.feed_forward.projections()
    )


def one_layer_holds_all(*names):
    blocks = [FlatBlock(*names) for _ in range(2)]
    return subclassed(blocks), [p for b in blocks for p in b.projections()]


class InLists(keras.Model):
    """No layer for a block: lists of what the blocks have of a kind."""

    def __init__(self, gated):
        super().__init__()
        count = range(3)
        self.attentions = [attention_layer("MultiHeadAttention") for _ in count]
        self.gates = [layers.Dense(16 + i) for i in count if gated]
        self.ups = [layers.Dense(16 + i) for i in count]
        self.downs = [layers.Dense(WIDTH) for _ in count]
        self.head = layers.Dense(3)

    def projections(self):
        pairs = []
        for i, attention in enumerate(self.attentions):
            pairs += keras_projections(attention)
            pairs += [("ffn_gate", layer) for layer in self.gates[i : i + 1]]
            pairs += [("ffn_up", self.ups[i]), ("ffn_down", self.downs[i])]
        return pairs

    def call(self, x):
        for i, attention in enumerate(self.attentions):
            x = x + attention(x, x)
            ups = [held[i] for held in (self.gates, self.ups) if held]
            x = x + feed_through([*ups, self.downs[i]], x)
        return self.head(x)


def lists_of_layers(gated=False):
    model = InLists(gated)
    model(keras.Input((LENGTH, WIDTH)))
    return model, model.projections()


class AllInLists(keras.Model):
    """Each projection in a list of its own; norms and what is in a row."""

    def __init__(self):
        super().__init__()
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.queries = [layers.Dense(WIDTH) for _ in range(3)]
        self.keys = [layers.Dense(WIDTH) for _ in range(3)]
        self.values = [layers.Dense(WIDTH) for _ in range(3)]
        self.outs = [layers.Dense(WIDTH) for _ in range(3)]
        self.networks = [FeedForward(hidden=4 + 8 * i) for i in range(3)]
        self.head = [layers.Dense(16), layers.Dense(3)]

    def projections(self):
        lists = (self.queries, self.keys, self.values, self.outs)
        return [
            pair
            for i, network in enumerate(self.networks)
            for pair in [
                *zip(
                    ["query", "key", "value", "attention_output"],
                    [held[i] for held in lists],
                ),
                *network.projections(),
            ]
        ]

    def call(self, x):
        parts = (self.queries, self.keys, self.values, self.outs)
        for norm, network, *attention in zip(self.norms, self.networks, *parts):
            x = norm(x + attend_through(attention, x))
            x = x + network(x)
        return self.head[1](self.head[0](x))


def all_in_lists():
    model = AllInLists()
    model(keras.Input((LENGTH, WIDTH)))
    return model, model.projections()


def sequential_model():
    blocks = [Block(Attention(), FeedForward()) for _ in range(2)]
    model = keras.Sequential(
        [
            keras.Input((LENGTH, 5)),
            layers.Dense(WIDTH),
            *blocks,
            layers.GlobalAveragePooling1D(),
            layers.Dense(16),
            layers.Dense(3),
        ]
    )
    return model, [
        pair
        for b in blocks
        for pair in b.attention.projections() + b.feed_forward.projections()
    ]
