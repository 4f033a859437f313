"""Which matrices are found, in models written in every usual way.

The builders note what they create, and that alone is expected: the very
variables, kernel first, in the order in which data meets them.
"""

import gc
import time

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import assume
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from keras import ops
from keras_hub import models
from small import transformer

from keras_grades import Component
from keras_grades import find_components
from keras_grades.component import ROLES
from keras_grades.component import ComponentList

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


# Backbones of KerasHub, and the task models on top of them.


def bert(num_layers=2):
    return models.BertBackbone(
        vocabulary_size=31,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=16,
    )


def gpt2():
    return models.GPT2Backbone(
        vocabulary_size=31,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=16,
    )


def llama():
    return models.LlamaBackbone(
        vocabulary_size=31,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=24,
        intermediate_dim=40,
    )


def vit():
    return models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=20,
    )


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


def in_bert(backbone):
    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected(
        (n, plain_parts("self_attention_layer", backbone.get_layer(n)))
        for n in names
    )


def in_gpt2(backbone):
    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected(
        (n, plain_parts("self_attention", backbone.get_layer(n))) for n in names
    )


def in_llama(backbone):
    def parts(block):
        up, gate, down = (
            block._feedforward_intermediate_dense,
            block._feedforward_gate_dense,
            block._feedforward_output_dense,
        )
        return attention_parts(
            "self_attention", block._self_attention_layer
        ) + [
            ("feedforward_intermediate_dense", "ffn_up", up),
            ("feedforward_gate_dense", "ffn_gate", gate),
            ("feedforward_output_dense", "ffn_down", down),
        ]

    names = ["transformer_layer_0", "transformer_layer_1"]
    return expected((n, parts(backbone.get_layer(n))) for n in names)


def in_vit(backbone):
    [encoder] = [x for x in backbone.layers if hasattr(x, "encoder_layers")]
    return expected(
        (
            f"transformer_block_{i}",
            attention_parts("mha", block.mha)
            + [
                ("mlp/dense_1", "ffn_up", block.mlp.dense_1),
                ("mlp/dense_2", "ffn_down", block.mlp.dense_2),
            ],
        )
        for i, block in enumerate(encoder.encoder_layers, 1)
    )


BACKBONES = {
    "bert": (bert, in_bert),
    "gpt2": (gpt2, in_gpt2),
    "llama": (llama, in_llama),
    "vit": (vit, in_vit),
}


@pytest.mark.parametrize("family", BACKBONES)
def test_backbone(family):
    build, find_by_hand = BACKBONES[family]
    backbone = build()
    assert describe(find_components(backbone)) == find_by_hand(backbone)


TASKS = {
    "BertTextClassifier": lambda: models.BertTextClassifier(
        backbone=bert(), num_classes=2
    ),
    "BertMaskedLM": lambda: models.BertMaskedLM(backbone=bert()),
    "GPT2CausalLM": lambda: models.GPT2CausalLM(backbone=gpt2()),
    "LlamaCausalLM": lambda: models.LlamaCausalLM(backbone=llama()),
    "ViTImageClassifier": lambda: models.ViTImageClassifier(
        backbone=vit(), num_classes=2
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_task_adds_no_component(task):
    model = TASKS[task]()
    assert describe(find_components(model)) == describe(
        find_components(model.backbone)
    )


def test_two_towers_are_told_apart():
    tokens = keras.Input((LENGTH,), dtype="int32")
    ids = {"token_ids": tokens, "padding_mask": ops.ones_like(tokens)}
    towers = [gpt2(), llama()]
    pooled = [layers.GlobalAveragePooling1D()(tower(ids)) for tower in towers]
    model = keras.Model(tokens, layers.Dense(3)(layers.Concatenate()(pooled)))
    found = find_components(model)
    for tower, prefix in zip(towers, ["gpt2_backbone", "llama_backbone"]):
        alone = find_components(tower)
        assert [
            (f"{prefix}/{c.name}", f"{prefix}/{c.block}", c.variables)
            for c in alone
        ] == [
            (c.name, c.block, c.variables)
            for c in found
            if c.name.startswith(prefix)
        ]
    assert len(found) == 2 * 6 + 2 * 7
    assert len(find_components(model, include=r"^llama_backbone/")) == 14


def test_towers_of_clip():
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12}
    model = models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(
            patch_size=8,
            image_shape=(16, 16, 3),
            intermediate_dim=20,
            **sizes,
        ),
        text_encoder=models.CLIPTextEncoder(
            vocabulary_size=31,
            embedding_dim=12,
            max_sequence_length=16,
            intermediate_dim=20,
            **sizes,
        ),
        projection_dim=10,
    )
    assert [(c.name, c.block) for c in find_components(model)] == [
        (f"{tower}/encoder_block_0/{part}", f"{tower}/encoder_block_0")
        for tower in ("vision_encoder", "text_encoder")
        for part in [
            "attention/query",
            "attention/key",
            "attention/value",
            "attention/attention_output",
            "dense_1",
            "dense_2",
        ]
    ]


# Keras's own attention layers.


def attention_layer(kind, **arguments):
    if kind == "MultiHeadAttention":
        return layers.MultiHeadAttention(2, 4, **arguments)
    return layers.GroupQueryAttention(4, 2, 2, **arguments)


KERAS_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention")


@pytest.mark.parametrize("kind", KERAS_ATTENTION)
@pytest.mark.parametrize("use_gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["no_bias", "bias"])
def test_layer_of_keras_alone(kind, use_gate, use_bias):
    attention = attention_layer(kind, use_gate=use_gate, use_bias=use_bias)
    attention.build((None, LENGTH, WIDTH), (None, LENGTH, WIDTH))
    by_hand = {
        "query": ("query", attention._query_dense),
        "key": ("key", attention._key_dense),
        "value": ("value", attention._value_dense),
        "attention_output": ("attention_output", attention._output_dense),
    }
    if use_gate:
        by_hand["gate"] = ("attention_output", attention._gate_dense)
    assert {
        c.name: (c.role, [*map(id, c.variables)])
        for c in find_components(attention)
    } == {
        name: (role, [*map(id, kernel_and_bias(layer))])
        for name, (role, layer) in by_hand.items()
    }


@pytest.mark.parametrize(
    "arguments",
    [{}, {"value_dim": 3}, {"output_shape": 10}],
    ids=str,
)
def test_key_and_value_of_another_width(arguments):
    """Cross attention: what is read need not be as wide as the queries."""
    attention = attention_layer("MultiHeadAttention", **arguments)
    attention.build((None, LENGTH, WIDTH), (None, LENGTH, 20))
    assert [c.role for c in find_components(attention)] == [
        "query",
        "key",
        "value",
        "attention_output",
    ]


# Models of users. Each builder gives the model, and (role, layer) for each
# projection in the order in which data meets them.


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

    def __init__(self):
        super().__init__()
        self.key, self.query, self.value = (layers.Dense(4) for _ in "kqv")

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


USER_MODELS = {
    "hand_written_attention": hand_written_attention,
    "sequential_feed_forward": sequential_feed_forward,
    "one_layer_holds_all": one_layer_holds_all,
    "one_layer_holds_all_gated": lambda: one_layer_holds_all(
        ("wq", "wk", "wv", "wo"), ("w1", "w3", "w2")
    ),
    "one_layer_holds_two_outs": lambda: one_layer_holds_all(
        ("qkv", "attn_out"), ("ffn_in", "ffn_out")
    ),
    "one_layer_holds_all_fused": lambda: one_layer_holds_all(
        ("c_attn", "c_proj"), ("c_fc", "mlp_proj"), 3 * WIDTH
    ),
    "camel_case": lambda: one_layer_holds_all(
        ("queryProj", "keyProj", "valueProj", "outProj")
    ),
    "lists_of_layers": lists_of_layers,
    "lists_of_layers_gated": lambda: lists_of_layers(gated=True),
    "sequential_model": sequential_model,
    "graph": lambda: graph([graph_parts() for _ in range(2)]),
    "graph_gated": lambda: graph([graph_parts(gated=True) for _ in range(2)]),
    "graph_of_models": lambda: graph(
        [graph_parts() for _ in range(2)], nested=True
    ),
    "graph_shared": lambda: graph([graph_parts()] * 3),
    "graph_of_convolutions": graph_of_convolutions,
    "deep_feed_forward": lambda: deep_feed_forward((16, 16), (24, 12, 10)),
    "deep_feed_forward_gated": lambda: deep_feed_forward((16, 20), gated=True),
    "heads_one_by_one": heads_one_by_one,
    "all_in_lists": all_in_lists,
    "graph_narrow_and_wide": lambda: graph_of_branches(
        ([4], 0), ([16], 0), ([8], 0), ([32], 0)
    ),
    "graph_deep": lambda: graph_of_branches(
        ([16, 16], 0), ([4, 20], 0), ([4, 4], 0)
    ),
    "graph_with_adapters": lambda: graph_of_branches(
        ([4], 0), ([16], 4), ([20], 8)
    ),
    "graph_normalizes_twice": graph_that_normalizes_twice,
    "graph_attention": lambda: graph_that_attends(by_layer(layers.Attention)),
    "graph_additive_attention": lambda: graph_that_attends(
        by_layer(layers.AdditiveAttention)
    ),
    "graph_attention_fused": lambda: graph_that_attends(
        by_layer(layers.Attention), fused=True
    ),
    "graph_dot_product_attention": lambda: graph_that_attends(by_operation),
    "graph_products": lambda: graph_that_attends(by_products),
    "graph_einsum": lambda: graph_that_attends(by_einsum),
    "graph_dot": lambda: graph_that_attends(by_dot),
    "graph_gate_first": lambda: graph_with_activation(first=True),
    "graph_gate_second": lambda: graph_with_activation(first=False),
}


def found_parts(components):
    return [(c.role, [*map(id, c.variables)]) for c in components]


def noted_parts(parts):
    return [(role, [*map(id, kernel_and_bias(x))]) for role, x in parts]


@pytest.mark.parametrize("kind", USER_MODELS)
def test_model_of_a_user(kind):
    model, parts = USER_MODELS[kind]()
    components = find_components(model)
    assert found_parts(components) == noted_parts(parts)
    names = [c.name for c in components]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "kind", ["sequential_feed_forward", "all_in_lists", "graph_of_models"]
)
def test_names_of_a_second_model(kind):
    """The names that Keras gives are numbered on; these are not."""
    first, second = (find_components(USER_MODELS[kind]()[0]) for _ in "12")
    assert roles(first) == roles(second)


def test_names_go_by_attributes():
    components = find_components(hand_written_attention()[0])
    assert [(c.name, c.block) for c in components] == [
        (f"blocks_{i}/{part}", f"blocks_{i}")
        for i in range(2)
        for part in [
            "attention/query",
            "attention/key",
            "attention/value",
            "attention/out",
            "feed_forward/up",
            "feed_forward/down",
        ]
    ]


def test_an_attribute_names_before_a_list_does():
    """In whichever place a backend keeps what is an attribute."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            blocks = [Block(Attention(), FeedForward()) for _ in range(4)]
            self.all = [blocks[0], blocks[1]]
            self.first = blocks[0]
            self.by_name = {"third": blocks[2], "more": [blocks[3]]}
            self.blocks = blocks

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model = Model()
    model(keras.Input((LENGTH, WIDTH)))
    assert list(dict.fromkeys(c.block for c in find_components(model))) == [
        "first",
        "all_1",
        "by_name_third",
        "by_name_more_0",
    ]


CREATED = {
    "in_order": ("gate_proj", "up_proj", "down_proj"),
    "back_first": ("down_proj", "gate_proj", "up_proj"),
    "back_first_plain": ("down_proj", "up_proj"),
    "back_between": ("gate_proj", "down_proj", "up_proj"),
    "back_before_gate": ("up_proj", "down_proj", "gate_proj"),
}


@pytest.mark.parametrize("order", CREATED)
def test_order_of_creation_does_not_matter(order):
    class Network(layers.Layer):
        def __init__(self):
            super().__init__()
            for name in CREATED[order]:
                width = WIDTH if name == "down_proj" else 16
                setattr(self, name, layers.Dense(width))

        def call(self, x):
            y = self.up_proj(x)
            if hasattr(self, "gate_proj"):
                y = y * ops.silu(self.gate_proj(x))
            return self.down_proj(y)

    model = subclassed([Block(Attention(), Network())])
    found = find_components(model, include="feed_forward")
    assert roles(found) == [
        (f"blocks_0/feed_forward/{name}", f"ffn_{name.split('_')[0]}")
        for name in CREATED[order]
    ]


class ByHand(layers.Layer):
    """A block of weights alone, named by the user or by Keras."""

    def __init__(self, named):
        super().__init__()
        self.named = named

    def build(self, shape):
        def add(attribute, *shape):
            name = attribute if self.named else None
            setattr(self, attribute, self.add_weight(shape=shape, name=name))

        for part in "qkvo":
            add(f"w{part}", WIDTH, WIDTH)
            add(f"b{part}", WIDTH)
        add("scale", WIDTH)
        add("up", WIDTH, 16)
        add("up_bias", 16)
        add("down", 16, WIDTH)

    def call(self, x):
        q, k, v = (
            x @ w + b
            for w, b in [
                (self.wq, self.bq),
                (self.wk, self.bk),
                (self.wv, self.bv),
            ]
        )
        x = self.scale * (x + attend(q, k, v) @ self.wo + self.bo)
        return x + ops.relu(x @ self.up + self.up_bias) @ self.down


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_weights_added_by_hand(named):
    blocks = [ByHand(named), ByHand(named)]
    components = find_components(subclassed(blocks))
    assert describe(components) == [
        (
            f"blocks_{i}/{names[0]}",
            role,
            f"blocks_{i}",
            [id(getattr(block, name)) for name in names],
        )
        for i, block in enumerate(blocks)
        for names, role in [
            (["wq", "bq"], "query"),
            (["wk", "bk"], "key"),
            (["wv", "bv"], "value"),
            (["wo", "bo"], "attention_output"),
            (["up", "up_bias"], "ffn_up"),
            (["down"], "ffn_down"),
        ]
    ]


class CrossBlock(Block):
    """A block with attention to itself and to something else."""

    def __init__(self):
        super().__init__(
            attention_layer("MultiHeadAttention"), FeedForward(("up", "down"))
        )
        self.cross_attention = attention_layer("MultiHeadAttention")

    def call(self, x):
        return super().call(x) + self.cross_attention(x, x[:, :2])


def test_cross_attention_is_told_by_its_name():
    block = CrossBlock()
    components = find_components(subclassed([block]))
    by_hand = [
        ("attention", keras_projections(block.attention)),
        ("feed_forward", block.feed_forward.projections()),
        ("cross_attention", keras_projections(block.cross_attention)),
    ]
    assert describe(components) == [
        (
            f"blocks_0/{part}/{role.removeprefix('ffn_')}",
            role,
            "blocks_0",
            [*map(id, kernel_and_bias(layer))],
        )
        for part, pairs in by_hand
        for role, layer in pairs
    ]


def test_blocks_of_a_graph_are_numbered():
    components = find_components(transformer(3))
    assert [c.block for c in components] == [
        f"block_{i}" for i in range(3) for _ in range(6)
    ]
    assert [c.name for c in components[:6]] == [
        "block_0_attention/query",
        "block_0_attention/key",
        "block_0_attention/value",
        "block_0_attention/attention_output",
        "block_0_up",
        "block_0_down",
    ]


IN_BLOCKS = {
    # Of the two models of lists, and of graphs without a layer for a block.
    "lists_of_layers": [6] * 3,
    "lists_of_layers_gated": [7] * 3,
    "all_in_lists": [6] * 3,
    "graph_narrow_and_wide": [6] * 4,
    "graph_with_adapters": [6] * 3,
    "graph_attention": [6] * 2,
    "graph_products": [6] * 2,
}


@pytest.mark.parametrize("kind", IN_BLOCKS)
def test_blocks_without_a_layer(kind):
    components = find_components(USER_MODELS[kind]()[0])
    assert [c.block for c in components] == [
        f"block_{i}"
        for i, number in enumerate(IN_BLOCKS[kind])
        for _ in range(number)
    ]


def test_blocks_of_an_encoder_and_a_decoder_in_one_graph():
    """In the order of data the first of the decoder are among the others."""

    def block(x, name, memory=None):
        attention = layers.MultiHeadAttention(2, 4, name=f"{name}_self")
        x = layers.Add()([x, attention(x, x)])
        if memory is not None:
            attention = layers.MultiHeadAttention(2, 4, name=f"{name}_cross")
            x = layers.Add()([x, attention(x, memory)])
        up = layers.Dense(16, name=f"{name}_up")
        return residual(x, up, layers.Dense(WIDTH, name=f"{name}_down"))

    encoded, decoded = inputs = [keras.Input((LENGTH, WIDTH)) for _ in "ed"]
    for i in range(3):
        encoded = block(encoded, f"encoder_{i}")
    for i in range(3):
        decoded = block(decoded, f"decoder_{i}", encoded)
    components = find_components(keras.Model(inputs, layers.Dense(3)(decoded)))
    held = {}
    for component in components:
        layer = component.name.split("/")[0]
        held.setdefault(component.block, set()).add(layer.rpartition("_")[0])
    assert sorted(held.values(), key=str) == [
        {f"{side}_{i}"} for side in ("decoder", "encoder") for i in range(3)
    ]
    assert len(components) == 3 * 6 + 3 * 10


@pytest.mark.parametrize("first", ["attention", "feed_forward"])
def test_blocks_with_both_branches_beside_each_other(first):
    def block(x, number):
        y = layers.LayerNormalization()(x)
        branches = {
            "attention": lambda: layers.MultiHeadAttention(
                2, 4, name=f"attention_{number}"
            )(y, y),
            "feed_forward": lambda: layers.Dense(WIDTH, name=f"down_{number}")(
                layers.Dense(16, name=f"up_{number}")(y)
            ),
        }
        order = sorted(branches, key=lambda name: name != first)
        return layers.Add()([x, *(branches[name]() for name in order)])

    inputs = keras.Input((LENGTH, WIDTH))
    x = block(block(block(inputs, 0), 1), 2)
    components = find_components(keras.Model(inputs, layers.Dense(3)(x)))
    assert len(components) == 18
    for component in components:
        layer = component.name.split("/")[0]
        assert component.block == f"block_{layer.rpartition('_')[2]}"


def test_same_names_in_one_model_are_made_unique():
    """`a_1` is also what the second `a` would be called."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(Attention(), FeedForward()) for _ in range(3)]
            for block, name in zip(self.blocks, ["a", "a_1", "a"]):
                block.name = name

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model = Model()
    model(keras.Input((LENGTH, WIDTH)))
    names = [c.name for c in find_components(model)]
    assert len(names) == len(set(names)) == 18


class Experts(layers.Layer):
    """Stacks of expert matrices, added by hand, behind a router."""

    def build(self, shape):
        self.router = layers.Dense(3, use_bias=False)
        self.router.build(shape)
        self.gate_up = self.add_weight(shape=(3, WIDTH, 40), name="gate_up")
        self.down = self.add_weight(shape=(3, 20, WIDTH), name="down")

    def call(self, x):
        weights = ops.softmax(self.router(x))
        gate, up = ops.split(
            ops.einsum("btm,emh->bteh", x, self.gate_up), 2, axis=-1
        )
        y = ops.einsum("bteh,ehm->btem", ops.silu(gate) * up, self.down)
        return ops.einsum("btem,bte->btm", y, weights)


def test_stacks_of_experts():
    block = Block(attention_layer("MultiHeadAttention"), Experts())
    components = find_components(subclassed([block, FlatBlock()]))[4:6]
    experts = block.feed_forward
    assert describe(components) == [
        (f"blocks_0/feed_forward/{name}", role, "blocks_0", [id(variable)])
        for name, role, variable in [
            ("gate_up", "ffn_gate_up", experts.gate_up),
            ("down", "ffn_down", experts.down),
        ]
    ]


# What is shared, tied, or not trained.


def test_shared_block_is_found_once():
    block = Block(Attention(), FeedForward())
    model = subclassed([block, block, block])
    assert found_parts(find_components(model)) == noted_parts(
        block.attention.projections() + block.feed_forward.projections()
    )


class TiedDense(layers.Dense):
    """A Dense whose kernel is another layer's table of embeddings."""

    def __init__(self, embedding):
        super().__init__(WIDTH, use_bias=False)
        # In a function, as the table stays the other layer's.
        self.table = lambda: embedding.embeddings

    def build(self, shape):
        self._kernel = self.table()
        self.bias = None
        self.input_spec = layers.InputSpec(min_ndim=2, axes={-1: shape[-1]})


def test_tied_to_an_embedding_is_no_component():
    embedding = layers.Embedding(31, WIDTH)
    up, down = layers.Dense(31), TiedDense(embedding)
    block = Block(Attention(), keras.Sequential([up, down]))
    tokens = keras.Input((LENGTH,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(3)(block(embedding(tokens))))
    assert down.kernel is embedding.embeddings
    assert found_parts(find_components(model)) == noted_parts(
        [*block.attention.projections(), ("ffn_up", up)]
    )


def test_non_trainable_is_left_out():
    backbone = bert()
    everything = in_bert(backbone)
    backbone.get_layer("transformer_layer_0").trainable = False
    second = backbone.get_layer("transformer_layer_1")
    second._self_attention_layer._query_dense._kernel.trainable = False
    second._feedforward_output_dense.bias.trainable = False
    left = everything[7:]
    left[-1][3].pop()
    assert describe(find_components(backbone)) == left


# LoRA and quantization.


@pytest.fixture
def few_to_collect():
    """Keras collects garbage after each layer that it quantizes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def lora_pair(layer):
    return [id(layer.lora_kernel_a), id(layer.lora_kernel_b)]


@pytest.mark.usefixtures("few_to_collect")
@pytest.mark.parametrize("mode", [None, "int8"])
def test_lora_pairs(mode):
    """The pair alone: Keras goes on training a bias beside it."""
    backbone = bert(num_layers=1)
    if mode:
        backbone.quantize(mode)
    backbone.enable_lora(2)
    block = backbone.get_layer("transformer_layer_0")
    attention = block._self_attention_layer
    assert describe(find_components(backbone)) == [
        (
            f"transformer_layer_0/self_attention_layer/{role}",
            role,
            "transformer_layer_0",
            lora_pair(layer),
        )
        for role, layer in [
            ("query", attention._query_dense),
            ("value", attention._value_dense),
        ]
    ]


def test_lora_beside_what_is_trained_in_full():
    backbone = bert()
    by_hand = in_bert(backbone)
    for i, (name, *_) in enumerate(by_hand):
        if not name.endswith(("/query", "/feedforward_output_dense")):
            continue
        block = backbone.get_layer(name.split("/")[0])
        layer = (
            block._self_attention_layer._query_dense
            if name.endswith("query")
            else block._feedforward_output_dense
        )
        layer.enable_lora(2)
        by_hand[i] = (*by_hand[i][:3], lora_pair(layer))
    assert describe(find_components(backbone)) == by_hand


@pytest.mark.usefixtures("few_to_collect")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_lora_on_every_quantized_projection(mode):
    """Packed to int4, a kernel no longer has the shape that it stands for."""
    model, parts = graph([graph_parts()])
    model.quantize(mode)
    with pytest.raises(ValueError, match="enable_lora"):
        find_components(model)
    for _, layer in parts:
        layer.enable_lora(2)
    assert found_parts(find_components(model)) == [
        (role, lora_pair(layer)) for role, layer in parts
    ]


def test_float8_is_still_trained():
    backbone = bert()
    backbone.quantize("float8")
    block = backbone.get_layer("transformer_layer_0")
    assert block._feedforward_output_dense.quantization_mode == "float8"
    assert describe(find_components(backbone)) == in_bert(backbone)


def test_dtype_policy_changes_nothing():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        backbone = bert()
    finally:
        keras.config.set_dtype_policy("float32")
    assert describe(find_components(backbone)) == in_bert(backbone)


# Selection and errors.


def test_include_and_exclude():
    model = transformer()
    everything = find_components(model)
    for selection in ("attention", lambda c: not c.role.startswith("ffn")):
        chosen = find_components(model, include=selection)
        assert describe(chosen) == describe(
            c for c in everything if "attention" in c.name
        )
        rest = find_components(model, exclude=selection)
        assert describe(rest) == describe(
            c for c in everything if "attention" not in c.name
        )
    both = find_components(model, include="block_1", exclude="attention")
    assert [c.name for c in both] == ["block_1_up", "block_1_down"]


@pytest.mark.parametrize(
    "selection",
    [{"include": "nothing_like_it"}, {"exclude": "."}],
    ids=["include", "exclude"],
)
def test_selection_that_leaves_nothing(selection):
    with pytest.raises(ValueError, match="block_0_attention/query"):
        find_components(transformer(), **selection)


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_selection_of_another_type(argument):
    with pytest.raises(TypeError, match=f"{argument}=3"):
        find_components(transformer(), **{argument: 3})
    with pytest.raises(ValueError, match=argument):
        find_components(transformer(), **{argument: "("})


def test_model_that_is_frozen():
    model = transformer()
    model.trainable = False
    with pytest.raises(ValueError, match="trainable"):
        find_components(model)


@pytest.mark.parametrize("model", [None, "bert", keras.layers.Dense])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="model"):
        find_components(model)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Classifier([FlatBlock()]),
        lambda: keras.Sequential([FlatBlock()]),
    ],
    ids=["subclassed", "sequential"],
)
def test_model_that_is_not_built(model):
    with pytest.raises(ValueError, match="build"):
        find_components(model())


def test_layer_that_was_never_called_is_passed_over():
    block, unused = (Block(Attention(), FeedForward()) for _ in "12")
    block.unused = layers.Dense(WIDTH)
    block.unused_block = unused
    assert found_parts(find_components(subclassed([block]))) == noted_parts(
        block.attention.projections() + block.feed_forward.projections()
    )


NO_TRANSFORMER = {
    "dense": lambda: [layers.Dense(16), layers.Dense(WIDTH), layers.Dense(3)],
    "autoencoder": lambda: [layers.Dense(4), layers.Dense(5)],
    "convolutions": lambda: [
        layers.Conv1D(16, 3),
        layers.Conv1D(WIDTH, 1),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ],
    "recurrent": lambda: [
        layers.LSTM(16, return_sequences=True),
        layers.Bidirectional(layers.GRU(WIDTH)),
        layers.Dense(3),
    ],
}


@pytest.mark.parametrize("kind", NO_TRANSFORMER)
def test_model_without_blocks_lists_its_layers(kind):
    model = keras.Sequential(
        [keras.Input((LENGTH, 5)), *NO_TRANSFORMER[kind]()]
    )
    first = type(model.layers[0]).__name__
    number = sum(type(layer).__name__ == first for layer in model.layers)
    with pytest.raises(ValueError, match=rf"\d {first}") as raised:
        find_components(model)
    if kind == "dense":
        assert f"{number} {first}" in str(raised.value)


@pytest.mark.parametrize("hidden", [4, 16])
@pytest.mark.parametrize("kind", ["BatchNormalization", "LayerNormalization"])
def test_what_normalizes_over_the_batch_is_no_block(kind, hidden):
    """FNet's blocks normalize each token, and go wider; autoencoders do not."""

    class Layer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.up = layers.Dense(hidden)
            self.norm = getattr(layers, kind)()
            self.down = layers.Dense(5)

        def call(self, x):
            return x + self.down(self.norm(ops.relu(self.up(x))))

    held = [Layer(), Layer()]
    model = keras.Sequential([keras.Input((LENGTH, 5)), *held, layers.Dense(3)])
    if kind == "LayerNormalization" and hidden > 5:
        assert found_parts(find_components(model)) == noted_parts(
            pair
            for layer in held
            for pair in [("ffn_up", layer.up), ("ffn_down", layer.down)]
        )
    else:
        with pytest.raises(ValueError, match="No trainable projection"):
            find_components(model)


def test_attention_to_what_is_not_projected():
    inputs = keras.Input((LENGTH, 5))
    x = layers.Dense(WIDTH)(inputs)
    x = layers.GlobalAveragePooling1D()(layers.Attention()([x, x]))
    with pytest.raises(ValueError, match="No trainable projection"):
        find_components(keras.Model(inputs, layers.Dense(3)(x)))


def test_head_after_attention_is_no_way_out():
    inputs = keras.Input((LENGTH, WIDTH))
    projections = [
        (role, layers.Dense(WIDTH)) for role in ("query", "value", "key")
    ]
    x = layers.Attention()([layer(inputs) for _, layer in projections])
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert found_parts(find_components(model)) == noted_parts(projections)


# The list.


def test_components_print_as_a_table():
    components = find_components(transformer())
    assert isinstance(components, ComponentList)
    assert all(type(c) is Component and c.role in ROLES for c in components)
    assert all(c.frozen_at is None for c in components)
    header, _, *rows, total = str(components).splitlines()
    assert header.split() == ["name", "role", "block", "shape", "parameters"]
    assert rows[0].split() == [
        "block_0_attention/query",
        "query",
        "block_0",
        "(8,",
        "2,",
        "4)",
        "64",
    ]
    assert len(rows) == 12
    size = sum(int(np.prod(v.shape)) for c in components for v in c.variables)
    assert total == f"12 components in 2 blocks, {size:,} parameters"


def test_two_hundred_blocks_within_a_second():
    zeros = {"use_bias": False, "kernel_initializer": "zeros"}
    blocks = [graph_parts(**zeros) for _ in range(200)]
    model, parts = graph(blocks)
    seconds = []
    for _ in range(3):
        # The time of this process: the machine may be busy with others.
        start = time.process_time()
        components = find_components(model)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert found_parts(components) == noted_parts(parts)
    assert len({c.block for c in components}) == 200


# Any small Transformer.

ATTENTION_NAMES = [
    ("query", "key", "value", "out"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("wq", "wk", "wv", "wo"),
    ("to_q", "to_k", "to_v", "to_out"),
    ("c_attn", "c_proj"),
    ("qkv", "proj"),
    ("in_proj_qkv", "out_proj"),
]
FEED_FORWARD_NAMES = [
    ("up", "down"),
    ("fc1", "fc2"),
    ("linear_1", "linear_2"),
    ("c_fc", "c_proj"),
    ("dense_1", "dense_2"),
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
]


@st.composite
def written_transformers(draw):
    """A model of nested layers, and what it holds."""
    use_bias = draw(st.booleans())
    kind = draw(st.sampled_from(["by_hand", "flat", *KERAS_ATTENTION]))
    attention_names = draw(st.sampled_from(ATTENTION_NAMES))
    feed_forward_names = draw(st.sampled_from(FEED_FORWARD_NAMES))
    assume(not {*attention_names} & {*feed_forward_names})
    hidden = draw(st.sampled_from([4, 10, 16, 24, 32]))
    zeros = {"use_bias": use_bias, "kernel_initializer": "zeros"}

    def block():
        if kind == "flat":
            return FlatBlock(
                attention_names, feed_forward_names, hidden, **zeros
            )
        if kind == "by_hand":
            attention = Attention(attention_names, **zeros)
        else:
            attention = attention_layer(kind, **zeros)
        return Block(
            attention, FeedForward(feed_forward_names, hidden, **zeros)
        )

    blocks = [block() for _ in range(draw(st.integers(1, 2)))]
    model = subclassed(blocks * draw(st.integers(1, 2)))
    return model, [pair for b in blocks for pair in projections_of(b)]


def projections_of(block):
    if isinstance(block, FlatBlock):
        return block.projections()
    attention = block.attention
    return (
        attention.projections()
        if isinstance(attention, Attention)
        else keras_projections(attention)
    ) + block.feed_forward.projections()


@st.composite
def drawn_graphs(draw):
    """A functional model without layers for blocks, and what it holds."""
    kind = draw(st.sampled_from(KERAS_ATTENTION))
    gated = draw(st.booleans())
    use_bias = draw(st.booleans())
    hidden = draw(st.sampled_from([4, 10, 16, 24, 32]))
    zeros = {"use_bias": use_bias, "kernel_initializer": "zeros"}

    def block():
        return graph_parts(gated, hidden, kind, **zeros)

    blocks = [block() for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()):
        return graph(blocks, nested=True)
    return graph(blocks * draw(st.integers(1, 2)))


def check_any_transformer(model, parts, lora):
    if lora:
        for role, layer in parts:
            if role in ("query", "qkv", "ffn_up"):
                layer.enable_lora(2)
    assert found_parts(find_components(model)) == [
        (
            role,
            lora_pair(layer)
            if layer.lora_enabled
            else [*map(id, kernel_and_bias(layer))],
        )
        for role, layer in parts
    ]


attending_graphs = st.builds(
    graph_that_attends,
    st.sampled_from(
        [
            by_layer(layers.Attention),
            by_layer(layers.AdditiveAttention),
            by_operation,
            by_products,
            by_einsum,
            by_dot,
        ]
    ),
    st.booleans(),
)
any_transformer = st.one_of(
    written_transformers(), drawn_graphs(), attending_graphs
)
unhurried = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=12, **unhurried)
@given(any_transformer, st.booleans())
def test_any_small_transformer(built, lora):
    check_any_transformer(*built, lora)


@pytest.mark.long
@settings(max_examples=200, **unhurried)
@given(any_transformer, st.booleans())
def test_many_small_transformers(built, lora):
    check_any_transformer(*built, lora)
