"""Which layers are attention."""

import keras
import pytest
from discovered import LENGTH
from discovered import WIDTH
from discovered import describe
from discovered import found_parts
from discovered import kernel_and_bias
from discovered import noted_parts
from keras import layers
from markers import marks_long_on
from written_models import KERAS_ATTENTION
from written_models import Block
from written_models import FeedForward
from written_models import Head
from written_models import attention_layer
from written_models import keras_projections
from written_models import subclassed

from keras_grades import find_components

# What is found does not depend on the backend.
pytestmark = marks_long_on("jax", "tensorflow")


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


class Narrow(layers.Layer):
    """The way out of attention is the layer's that holds all, and narrow."""

    def __init__(self):
        super().__init__()
        self.attention = Head(12)
        self.out = layers.Dense(WIDTH)
        self.up = layers.Dense(12)
        self.down = layers.Dense(WIDTH)

    def call(self, x):
        x = x + self.out(self.attention(x))
        return x + self.down(self.up(x))


def test_a_way_out_is_told_from_a_way_back_of_the_same_shape():
    block = Narrow()
    block(keras.ops.ones((2, LENGTH, WIDTH)))
    found = {c.name: c.role for c in find_components(block)}
    assert found["out"] == "attention_output"
    assert (found["up"], found["down"]) == ("ffn_up", "ffn_down")


class BesideAHead(layers.Layer):
    """Attention without a way out, and what reads as much as it makes."""

    def __init__(self, *widths):
        super().__init__()
        self.attention = Head(WIDTH)
        self.dense = [layers.Dense(width) for width in widths]

    def call(self, x):
        x = x + self.attention(x)
        for dense in self.dense:
            x = dense(x)
        return x


@pytest.mark.parametrize(
    ("widths", "beside"),
    [((40, WIDTH), ["ffn_up", "ffn_down"]), ((3,), [])],
    ids=["feed-forward network", "head"],
)
def test_what_stands_beside_attention_is_no_way_out(widths, beside):
    block = BesideAHead(*widths)
    block(keras.ops.ones((2, LENGTH, WIDTH)))
    found = [c.role for c in find_components(block)]
    assert sorted(found) == sorted(["query", "key", "value", *beside])
