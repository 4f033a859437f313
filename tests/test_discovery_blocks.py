"""Which block a projection belongs to."""

import time

import keras
import pytest
from discovered import LENGTH
from discovered import WIDTH
from discovered import found_parts
from discovered import noted_parts
from graph_models import graph
from graph_models import graph_parts
from graph_models import residual
from keras import layers
from small import transformer
from user_models import USER_MODELS
from written_models import Attention
from written_models import Block
from written_models import DeepFeedForward
from written_models import FeedForward

from keras_grades import find_components

pytestmark = pytest.mark.alike


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


class WithPredictor(keras.Model):
    """A functional model with one more part, which is not in its graph."""

    def __init__(self):
        model, _ = graph([graph_parts()])
        super().__init__(model.inputs, model.outputs)
        self.predictor = keras.Sequential(
            [keras.Input((WIDTH,)), layers.Dense(64), layers.Dense(WIDTH)]
        )


def test_what_is_not_in_the_graph_is_in_no_block():
    assert len(find_components(WithPredictor())) == 6


def test_a_head_behind_a_pooler_is_in_no_block():
    inputs = keras.Input((LENGTH, WIDTH))
    x = residual(inputs, layers.LayerNormalization())
    attention = layers.MultiHeadAttention(2, 4)
    x = layers.Add()([x, attention(x, x)])
    pooled = layers.GlobalAveragePooling1D()(x)
    y = layers.Dense(WIDTH)(layers.Dense(64, activation="relu")(pooled))
    model = keras.Model(inputs, layers.Add()([pooled, y]))
    assert not [c for c in find_components(model) if c.role.startswith("ffn")]


class Encoder(Block):
    """A block with a name that its user has chosen."""


def test_a_numbered_block_has_a_name_of_its_own():
    inputs = keras.Input((LENGTH, WIDTH))
    block = Encoder(Attention(), FeedForward(("up", "down")))
    block.name = "block_0"
    x = block(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    y = layers.Dense(WIDTH)(layers.Dense(16, activation="relu")(x))
    model = keras.Model(inputs, layers.Add()([x, y]))
    blocks = [c.block for c in find_components(model)]
    assert blocks == ["block_0"] * 6 + ["block_1"] * 6


class TwoKinds(keras.Model):
    """Attention in one list, networks of two kinds in another."""

    def __init__(self):
        super().__init__()
        self.attentions = [Attention() for _ in range(4)]
        self.networks = [
            DeepFeedForward([16, 16]) if i % 2 else FeedForward()
            for i in range(4)
        ]

    def call(self, x):
        for attention, network in zip(self.attentions, self.networks):
            x = x + attention(x)
            x = x + network(x)
        return x


def test_a_list_may_hold_networks_of_two_kinds():
    model = TwoKinds()
    model(keras.ops.ones((2, LENGTH, WIDTH)))
    blocks = [c.block for c in find_components(model)]
    sizes = [6, 7, 6, 7]
    assert blocks == [
        f"block_{i}" for i, n in enumerate(sizes) for _ in range(n)
    ]
