"""Names, and weights that are no layer's kernel."""

import keras
import numpy as np
import pytest
from backbones import bert
from backbones import in_bert
from discovered import LENGTH
from discovered import WIDTH
from discovered import describe
from discovered import found_parts
from discovered import noted_parts
from keras import layers
from keras import ops
from written_models import Attention
from written_models import Block
from written_models import FeedForward
from written_models import attend
from written_models import hand_written_attention
from written_models import subclassed

from keras_grades import find_components
from keras_grades.rebuild.costs import work_of

pytestmark = pytest.mark.alike


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


def tied_to_an_embedding():
    """A model, its embedding, its block and the two matrices of a network."""
    embedding = layers.Embedding(31, WIDTH)
    up, down = layers.Dense(31), TiedDense(embedding)
    block = Block(Attention(), keras.Sequential([up, down]))
    tokens = keras.Input((LENGTH,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(3)(block(embedding(tokens))))
    return model, embedding, block, up, down


def test_tied_to_an_embedding_is_no_component():
    model, embedding, block, up, down = tied_to_an_embedding()
    assert down.kernel is embedding.embeddings
    assert found_parts(find_components(model)) == noted_parts(
        [*block.attention.projections(), ("ffn_up", up)]
    )


def test_lora_on_what_is_tied_to_an_embedding():
    model, _, _, up, down = tied_to_an_embedding()
    up.enable_lora(2)
    down.enable_lora(2)
    work = work_of(model, find_components(model), [])
    assert work.share(np.zeros(len(find_components(model)), bool)) == 0


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


def test_layer_that_was_never_called_is_passed_over():
    block, unused = (Block(Attention(), FeedForward()) for _ in "12")
    block.unused = layers.Dense(WIDTH)
    block.unused_block = unused
    assert found_parts(find_components(subclassed([block]))) == noted_parts(
        block.attention.projections() + block.feed_forward.projections()
    )
