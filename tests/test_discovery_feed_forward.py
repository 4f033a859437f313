"""Which matrices are a feed-forward network, and which are none."""

import keras
import pytest
from discovered import LENGTH
from discovered import WIDTH
from discovered import describe
from discovered import found_parts
from discovered import noted_parts
from discovered import roles
from keras import layers
from keras import ops
from written_models import Attention
from written_models import Block
from written_models import FlatBlock
from written_models import attention_layer
from written_models import subclassed

from keras_grades import find_components

pytestmark = pytest.mark.alike

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


class ConvolutionBlock(layers.Layer):
    """As in FastSpeech: the feed-forward network mixes neighbours, too."""

    def __init__(self, up, down, held=None):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, WIDTH // 2)
        self.up, self.down, self.held = up, down, held
        self.norm = layers.LayerNormalization()

    def call(self, x):
        x = self.norm(x + self.attention(x, x))
        if self.held is not None:
            x = x + self.held(x)
        return x + self.down(self.up(x))


def convolution(units, size):
    return layers.Conv1D(units, size, padding="same")


@pytest.mark.parametrize(("up", "down"), [(3, 3), (9, 1), (1, 3)])
def test_convolutions_as_a_feed_forward_network(up, down):
    def functional(x):
        y = layers.MultiHeadAttention(2, WIDTH // 2)(x, x)
        x = layers.LayerNormalization()(x + y)
        y = convolution(20, up)(x)
        return x + convolution(WIDTH, down)(y)

    def roles(block):
        x = keras.Input((LENGTH, WIDTH))
        model = keras.Model(x, layers.Dense(2)(layers.Flatten()(block(x))))
        return [c.role for c in find_components(model)]

    block = ConvolutionBlock(convolution(20, up), convolution(WIDTH, down))
    expected = ["query", "key", "value", "attention_output"]
    expected += ["ffn_up", "ffn_down"]
    assert roles(block) == roles(functional) == expected


def test_convolutions_beside_a_feed_forward_network():
    """As in a Conformer, they are no part of it."""
    network = keras.Sequential([layers.Dense(20), layers.Dense(WIDTH)])
    block = ConvolutionBlock(convolution(24, 3), convolution(WIDTH, 3), network)
    components = find_components(subclassed([block]))
    assert found_parts(components)[4:] == noted_parts(
        [("ffn_up", network.layers[0]), ("ffn_down", network.layers[1])]
    )


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


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        # By activations.
        ({"a": "relu", "b": None}, ["ffn_up", "ffn_down"]),
        (
            {"a": "silu", "b": None, "c": None},
            ["ffn_gate", "ffn_up", "ffn_down"],
        ),
        (
            {"a": None, "b": "silu", "c": None},
            ["ffn_up", "ffn_gate", "ffn_down"],
        ),
        (
            {"a": "relu", "b": "relu", "c": None},
            ["ffn_up", "ffn_up", "ffn_down"],
        ),
        (
            {"a": "relu", "b": None, "c": "relu", "d": None},
            ["ffn_up", "ffn_down"] * 2,
        ),
        # By names.
        (
            {"up": None, "gate": None, "down": None},
            ["ffn_up", "ffn_gate", "ffn_down"],
        ),
        ({"down": None, "up": None}, ["ffn_down", "ffn_up"]),
        (
            {"gate_proj": None, "down_proj": None, "up_proj": None},
            ["ffn_gate", "ffn_down", "ffn_up"],
        ),
        # By their order.
        ({"a": None, "b": None}, ["ffn_up", "ffn_down"]),
        ({"a": None, "b": None, "c": None}, ["ffn_gate", "ffn_up", "ffn_down"]),
    ],
)
def test_square_matrices(created, expected):
    """Their widths tell nothing."""

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(2, 4)
            for name, activation in created.items():
                dense = layers.Dense(WIDTH, activation=activation)
                setattr(self, name, dense)

        def call(self, x):
            x = x + self.attention(x, x)
            for name in created:
                x = getattr(self, name)(x)
            return x

    x = keras.Input((LENGTH, WIDTH))
    model = keras.Model(x, Block()(x))
    roles = {c.name.rpartition("/")[2]: c.role for c in find_components(model)}
    assert [roles[name] for name in created] == expected


class Scores(layers.Layer):
    """As SAM 3 scores queries by a text: all of its matrices lead back."""

    def __init__(self):
        super().__init__()
        self.text_mlp = keras.Sequential(
            [layers.Dense(40), layers.Dense(WIDTH)]
        )
        self.norm = layers.LayerNormalization()
        self.text_proj = layers.Dense(WIDTH)
        self.query_proj = layers.Dense(WIDTH)

    def call(self, x):
        text = self.text_proj(self.norm(self.text_mlp(x)))
        return ops.matmul(self.query_proj(x), ops.swapaxes(text, -1, -2))


def test_what_asks_is_no_block_that_mixes_without_weights():
    inputs = keras.Input((LENGTH, WIDTH))
    model = keras.Model(inputs, Scores()(inputs))
    with pytest.raises(ValueError, match="No trainable projection"):
        find_components(model)


class Mixes(layers.Layer):
    """A feed-forward network that mixes neighbours on its way."""

    def __init__(self):
        super().__init__()
        self.up, self.down = layers.Dense(16), layers.Dense(WIDTH)
        self.mix = layers.Conv1D(16, 3, padding="same", groups=16)

    def call(self, x):
        return self.down(ops.relu(self.mix(self.up(x))))


def test_a_network_may_mix_neighbours_on_its_way():
    block = Block(Attention(), Mixes())
    components = find_components(subclassed([block]))
    assert found_parts(components)[4:] == noted_parts(
        [
            ("ffn_up", block.feed_forward.up),
            ("ffn_down", block.feed_forward.down),
        ]
    )
