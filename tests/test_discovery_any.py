"""What is found in any small Transformer that hypothesis draws."""

import pytest
from discovered import found_parts
from discovered import kernel_and_bias
from discovered import lora_pair
from graph_models import by_dot
from graph_models import by_einsum
from graph_models import by_layer
from graph_models import by_operation
from graph_models import by_products
from graph_models import graph
from graph_models import graph_parts
from graph_models import graph_that_attends
from hypothesis import HealthCheck
from hypothesis import assume
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from written_models import KERAS_ATTENTION
from written_models import Attention
from written_models import Block
from written_models import FeedForward
from written_models import FlatBlock
from written_models import attention_layer
from written_models import keras_projections
from written_models import subclassed

from keras_grades import find_components

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
