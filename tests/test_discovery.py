"""Which matrices are found, in models written in every usual way.

The builders note what they create, and that alone is expected: the very
variables, kernel first, in the order in which data meets them.
"""

import time

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck
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


def test_key_and_value_of_another_width():
    """Cross attention: what is read need not be as wide as the queries."""
    attention = attention_layer("MultiHeadAttention")
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


class Attention(layers.Layer):
    """Attention by hand, with projections under any names."""

    def __init__(self, names=("query", "key", "value", "out"), **arguments):
        super().__init__()
        self.parts = dict(zip(names, ["query", "key", "value"]))
        if len(names) == 2:
            self.parts = {names[0]: "qkv"}
        self.parts[names[-1]] = "attention_output"
        for name, role in self.parts.items():
            width = 3 * WIDTH if role == "qkv" else WIDTH
            setattr(self, name, layers.Dense(width, **arguments))

    def projections(self):
        return [(role, getattr(self, n)) for n, role in self.parts.items()]

    def call(self, x):
        *inputs, out = [layer for _, layer in self.projections()]
        projected = [layer(x) for layer in inputs]
        if len(projected) == 1:
            projected = ops.split(projected[0], 3, axis=-1)
        return out(attend(*projected))


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
        *ups, down = [layer for _, layer in self.projections()]
        x, *gated = [layer(x) for layer in ups]
        x = ops.silu(x)
        return down(x * gated[0] if gated else x)


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

    def __init__(self):
        super().__init__()
        self.norm_1 = layers.LayerNormalization()
        self.query = layers.Dense(WIDTH)
        self.key = layers.Dense(WIDTH)
        self.value = layers.Dense(WIDTH)
        self.out = layers.Dense(WIDTH)
        self.norm_2 = layers.LayerNormalization()
        self.fc1 = layers.Dense(16, activation="gelu")
        self.fc2 = layers.Dense(WIDTH)

    def projections(self):
        return [
            ("query", self.query),
            ("key", self.key),
            ("value", self.value),
            ("attention_output", self.out),
            ("ffn_up", self.fc1),
            ("ffn_down", self.fc2),
        ]

    def call(self, x):
        y = self.norm_1(x)
        y = attend(self.query(y), self.key(y), self.value(y))
        x = x + self.out(y)
        return x + self.fc2(self.fc1(self.norm_2(x)))


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


def one_layer_holds_all():
    blocks = [FlatBlock() for _ in range(2)]
    return subclassed(blocks), [p for b in blocks for p in b.projections()]


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


USER_MODELS = {
    "hand_written_attention": hand_written_attention,
    "sequential_feed_forward": sequential_feed_forward,
    "one_layer_holds_all": one_layer_holds_all,
    "sequential_model": sequential_model,
    "graph": lambda: graph([graph_parts() for _ in range(2)]),
    "graph_gated": lambda: graph([graph_parts(gated=True) for _ in range(2)]),
    "graph_of_models": lambda: graph(
        [graph_parts() for _ in range(2)], nested=True
    ),
    "graph_shared": lambda: graph([graph_parts()] * 3),
}


def found_parts(components):
    return [(c.role, [*map(id, c.variables)]) for c in components]


def noted_parts(parts):
    return [(role, [*map(id, kernel_and_bias(x))]) for role, x in parts]


@pytest.mark.parametrize("kind", USER_MODELS)
def test_model_of_a_user(kind):
    model, parts = USER_MODELS[kind]()
    assert found_parts(find_components(model)) == noted_parts(parts)


@pytest.mark.parametrize("kind", USER_MODELS)
def test_names_are_unique_and_do_not_count_the_process(kind):
    """Another model, built in between, numbers Keras's names on."""
    first, second = (
        roles(find_components(USER_MODELS[kind]()[0])) for _ in "12"
    )
    assert first == second
    names = [name for name, _ in first]
    assert len(names) == len(set(names))


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


def lora_pair(layer):
    return [id(layer.lora_kernel_a), id(layer.lora_kernel_b)]


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_lora_pairs(mode):
    """The pair alone: Keras goes on training a bias beside it."""
    backbone = bert(num_layers=1)
    if mode:
        backbone.quantize(mode)
        with pytest.raises(ValueError, match="enable_lora"):
            find_components(backbone)
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


def test_float8_is_still_trained():
    backbone = bert()
    backbone.quantize("float8")
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
    "bottleneck": lambda: [
        keras.Sequential(
            [
                layers.Dense(4),
                layers.BatchNormalization(),
                layers.Dense(WIDTH),
            ]
        )
    ],
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
    blocks = [graph_parts(kernel_initializer="zeros") for _ in range(200)]
    model, parts = graph(blocks)
    # The time of this process: the machine may be busy with others.
    start = time.process_time()
    components = find_components(model)
    assert time.process_time() - start < 1
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
    kind = draw(st.sampled_from(["by_hand", *KERAS_ATTENTION]))
    attention_names = draw(st.sampled_from(ATTENTION_NAMES))
    feed_forward_names = draw(st.sampled_from(FEED_FORWARD_NAMES))
    hidden = draw(st.sampled_from([4, 10, 16, 24, 32]))
    zeros = {"use_bias": use_bias, "kernel_initializer": "zeros"}

    def block():
        if kind == "by_hand":
            attention = Attention(attention_names, **zeros)
        else:
            attention = attention_layer(kind, **zeros)
        return Block(
            attention, FeedForward(feed_forward_names, hidden, **zeros)
        )

    blocks = [block() for _ in range(draw(st.integers(1, 2)))]
    model = subclassed(blocks * draw(st.integers(1, 2)))
    return model, [
        pair
        for b in blocks
        for pair in (
            b.attention.projections()
            if kind == "by_hand"
            else keras_projections(b.attention)
        )
        + b.feed_forward.projections()
    ]


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


any_transformer = st.one_of(written_transformers(), drawn_graphs())
unhurried = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=15, **unhurried)
@given(any_transformer, st.booleans())
def test_any_small_transformer(built, lora):
    check_any_transformer(*built, lora)


@pytest.mark.long
@settings(max_examples=200, **unhurried)
@given(any_transformer, st.booleans())
def test_many_small_transformers(built, lora):
    check_any_transformer(*built, lora)
