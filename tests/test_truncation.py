"""What lies below the blocks still training: found, frozen, left alone."""

import re
import warnings

import keras
import keras_hub
import numpy as np
import pytest
import reference
import small
from families import FAMILIES

import keras_grades
from keras_grades.truncation import find_followers

pytestmark = pytest.mark.alike

VOCABULARY = 20
STEPS = 8
BATCH = 4
GRACE = 3
# What each variable outside the components of `text_model()` waits for.
EMBEDDING = ("tokens/", "embedding_norm/")
NORMS = tuple(f"block_{i}_norm" for i in range(2))


def text_model(probe=None):
    """An embedding and a norm below a nested model of two blocks."""
    tokens = keras.Input((small.LENGTH,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, small.WIDTH, name="tokens")(tokens)
    x = keras.layers.LayerNormalization(name="embedding_norm")(x)
    if probe is not None:
        x = probe(x)
    model = keras.Model(tokens, small.transformer()(x))
    small.set_weights(model)
    return model


def token_batches():
    rng = np.random.default_rng(2)
    x = rng.integers(0, VOCABULARY, (STEPS * BATCH, small.LENGTH))
    y = rng.integers(0, small.CLASSES, STEPS * BATCH)
    return x.astype("int32"), y.astype("int32")


def waits_for(model, components=None):
    """The blocks that each variable waits for, by its path."""
    if components is None:
        components = keras_grades.find_components(model)
    return {
        v.path: {components[i].block for i in followers.components}
        for followers in find_followers(model, components)
        for v in followers.variables
    }


def check_table(model, table):
    """Each variable that is no component's must be as one row says.

    Args:
        table: Dict from a regular expression on paths to a set of blocks, or
            None for what stays in training.
    """
    components = {
        id(v) for c in keras_grades.find_components(model) for v in c.variables
    }
    found = waits_for(model)
    used = set()
    for variable in model.trainable_variables:
        if id(variable) not in components:
            rows = [row for row in table if re.search(row, variable.path)]
            assert len(rows) == 1, (variable.path, rows)
            assert found.get(variable.path) == table[rows[0]], variable.path
            used.update(rows)
    assert used == set(table)


def test_nested_graphs():
    check_table(
        text_model(),
        {
            "tokens|embedding_norm": {"block_0"},
            "block_0_norm": {"block_0"},
            "block_1_norm": {"block_0", "block_1"},
            "head": None,
        },
    )


def blocks(name, *numbers):
    return {f"{name}_{i}" for i in numbers}


# Read off the sources of KerasHub: what each family computes in which order.
TABLES = {
    "bert": {
        "embedding": blocks("transformer_layer", 0),
        "transformer_layer_0/": blocks("transformer_layer", 0),
        "transformer_layer_1/": blocks("transformer_layer", 0, 1),
        "pooled_dense": None,
    },
    # Its tables of relative positions are read by every block, and lie below
    # the first.
    "deberta_v3": {
        "embedding": blocks("disentangled_attention_encoder_layer", 0),
        "layer_0/": blocks("disentangled_attention_encoder_layer", 0),
        "layer_1/": blocks("disentangled_attention_encoder_layer", 0, 1),
    },
    "vit": {
        "patching_and_embedding": blocks("transformer_block", 1),
        "transformer_block_1/": blocks("transformer_block", 1),
        "transformer_block_2/": blocks("transformer_block", 1, 2),
        "encoder/ln/": None,
    },
    # Encoder and decoder each by themselves; both read the same embedding.
    "bart": {
        "token_embedding": {
            "transformer_encoder_layer_0",
            "transformer_decoder_layer_0",
        },
        "^encoder_(position|embeddings)": blocks(
            "transformer_encoder_layer", 0
        ),
        "^decoder_(position|embeddings)": blocks(
            "transformer_decoder_layer", 0
        ),
        "encoder_layer_0/": blocks("transformer_encoder_layer", 0),
        "encoder_layer_1/": blocks("transformer_encoder_layer", 0, 1),
        "decoder_layer_0/": blocks("transformer_decoder_layer", 0),
        "decoder_layer_1/": blocks("transformer_decoder_layer", 0, 1),
    },
}


@pytest.mark.parametrize("family", TABLES)
def test_families(family):
    check_table(FAMILIES[family].build(), TABLES[family])


def test_towers_each_by_themselves():
    model = FAMILIES["clip"].build()
    components = keras_grades.find_components(model)
    for followers in find_followers(model, components):
        towers = {
            components[i].block.split("/")[0] for i in followers.components
        }
        assert len(towers) == 1
    # The heads follow on no block, nor does the scale of the loss.
    stay = ("vision_projection", "text_projection", "logit_scale")
    assert not [p for p in waits_for(model) if any(s in p for s in stay)]


def test_an_embedding_tied_to_the_output_keeps_the_backward_pass_going():
    backbone = FAMILIES["gpt2"].build()
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    first = {"transformer_layer_0"}
    assert waits_for(backbone)["token_embedding/embeddings"] == first
    with pytest.warns(UserWarning, match="tied to the output") as caught:
        assert waits_for(model) == {}
    assert str(caught[0].message).endswith(": token_embedding/embeddings")
    # Unless it is frozen, and with it all that it keeps going.
    backbone.token_embedding.trainable = False
    found = waits_for(model)
    assert "token_embedding/embeddings" not in found
    assert found["position_embedding/embeddings"] == first
    assert found["transformer_layer_1/self_attention_layer_norm/gamma"] == {
        *first,
        "transformer_layer_1",
    }


def test_embedding_untied_from_the_output_waits():
    backbone = FAMILIES["llama"].build()
    assert not backbone.token_embedding.tie_weights
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    found = waits_for(model)
    assert found["token_embedding/embeddings"] == {"transformer_layer_0"}
    assert "token_embedding/reverse_embeddings" not in found


def test_block_with_an_untracked_projection_is_never_done():
    model = text_model()
    components = keras_grades.find_components(model, exclude="block_0_up")
    assert waits_for(model, components) == {}


class Subclassed(keras.Model):
    """A model without a graph, but with a list of blocks."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, 8, name="embed")
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.layers_of_it = [
            keras_hub.layers.TransformerEncoder(16, 2, name=f"layer_{i}")
            for i in range(3)
        ]
        self.head = keras.layers.Dense(small.CLASSES, name="head")

    def build(self, shape):
        self.positions = self.add_weight(
            shape=(small.LENGTH, 8), initializer="zeros", name="positions"
        )

    def call(self, tokens):
        x = self.norm(self.embed(tokens)) + self.positions
        for layer in self.layers_of_it:
            x = layer(x)
        return self.head(x[:, 0])


def test_without_a_graph_the_blocks_have_an_order():
    model = Subclassed()
    model(np.zeros((1, small.LENGTH), "int32"))
    with pytest.warns(UserWarning, match="cannot know") as caught:
        found = waits_for(model)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "norm/gamma" in message and "positions" in message
    assert "head" not in message and "layer_0" not in message
    expected = {"embed": blocks("layer", 0)}
    expected |= {f"layer_{i}": blocks("layer", *range(i + 1)) for i in range(3)}
    for path, waits in found.items():
        name = next(n for n in expected if f"/{n}/" in f"/{path}")
        assert waits == expected[name], path
    # Four for each block's two norms.
    assert len(found) == 1 + 3 * 4


def test_graphs_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waits_for(text_model())


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, 0.9, global_clipnorm=0.5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.2),
}


def fit(
    model, optimizer, recompile, truncate_backward, callbacks=(), cooldown=0
):
    """Freezes all of the first block from step `GRACE`, and nothing else."""
    model.compile(OPTIMIZERS[optimizer](), small.loss())
    grades = keras_grades.GradES(
        tau={"block_0": 1e30, "": 1e-30},
        alpha=GRACE,
        recompile=recompile,
        truncate_backward=truncate_backward,
        cooldown=cooldown,
        verbose=0,
    )
    x, y = token_batches()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[grades, *callbacks],
    )
    return grades


class Values(keras.callbacks.Callback):
    """Keeps all weights after each step."""

    def __init__(self):
        super().__init__()
        self.after_step = []

    def on_train_batch_end(self, batch, logs=None):
        self.after_step.append(
            {v.path: np.array(v) for v in self.model.trainable_variables}
            | {v.path: np.array(v) for v in self.model.non_trainable_variables}
        )


def lies_below(path):
    return path.startswith((*EMBEDDING, "block_0_"))


@pytest.mark.everywhere
@pytest.mark.parametrize(
    ("optimizer", "recompile", "cooldown"),
    [
        ("sgd", "never", 0),
        ("adamw", "never", 0),
        ("sgd", "always", 0),
        ("adamw", "never", 2),
    ],
)
def test_same_as_freezing_by_hand(optimizer, recompile, cooldown):
    by_hand = text_model()
    components = keras_grades.find_components(by_hand)
    first = [i for i, c in enumerate(components) if "block_0" in c.name]
    below = [
        v
        for v in by_hand.trainable_variables
        if v.path.startswith((*EMBEDDING, "block_0_norm"))
    ]
    assert len(below) == 1 + 2 + 4
    x, y = token_batches()
    frozen_at, _ = reference.train(
        by_hand,
        OPTIMIZERS[optimizer](),
        small.loss(),
        list(zip(x.reshape(STEPS, BATCH, -1), y.reshape(STEPS, BATCH))),
        [c.variables for c in components],
        tau=[1e30 if i in first else 1e-30 for i in range(len(components))],
        grace_steps=GRACE,
        cooldown=cooldown,
        followers=[(below, first)],
    )
    model, values = text_model(), Values()
    grades = fit(model, optimizer, recompile, True, [values], cooldown)
    assert [c.frozen_at or 0 for c in grades.components] == frozen_at
    for actual, expected in zip(model.get_weights(), by_hand.get_weights()):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    # And bit for bit still from the step after on.
    for path, last in values.after_step[-1].items():
        frozen = values.after_step[GRACE + cooldown - 1][path]
        assert np.array_equal(frozen, last) == lies_below(path), path


def test_flags_are_put_back():
    model = text_model()
    fit(model, "sgd", "always", True)
    assert all(v.trainable for v in model.trainable_variables)
    assert len(model.trainable_variables) == len(
        text_model().trainable_variables
    )


class Probe(keras.layers.Layer):
    """Passes on its input, and counts the backward passes through it.

    Those that run; on JAX, those that are traced.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        @keras.ops.custom_gradient
        def watched(x):
            def backward(*gradients, upstream=None):
                return self.see(gradients[0] if upstream is None else upstream)

            return keras.ops.multiply(x, 1.0), backward

        return watched(x)

    def see(self, gradient):
        if keras.backend.backend() != "tensorflow":
            self.seen.append(True)
            return gradient
        import tensorflow as tf

        # TensorFlow traces all of the backward pass, and drops what nothing
        # needs: so it may drop this.
        seen = tf.numpy_function(
            self._count, [gradient], gradient.dtype, stateful=False
        )
        return tf.ensure_shape(seen, gradient.shape)

    def _count(self, gradient):
        self.seen.append(True)
        return gradient


@pytest.mark.everywhere
@pytest.mark.parametrize("truncate_backward", [True, False])
def test_backward_pass_ends_above(truncate_backward):
    probe, counts = Probe(), []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: counts.append(len(probe.seen))
    )
    model = text_model(probe)
    fit(model, "sgd", "always", truncate_backward, [count])
    assert counts[GRACE - 1] > 0
    assert (counts[-1] == counts[GRACE - 1]) == truncate_backward


def test_saved_with_the_optimizer():
    model = text_model()
    components = keras_grades.find_components(model)
    followers = find_followers(model, components)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.SGD(), components, 0.1, alpha=1, followers=followers
    )
    optimizer.build(model.trainable_variables)
    again = keras_grades.GradESOptimizer.from_config(optimizer.get_config())
    again.build(model.trainable_variables)
    assert len(followers) == len(again.followers) > 0
    for saved, loaded in zip(followers, again.followers):
        assert tuple(loaded.components) == saved.components
        assert list(map(id, loaded.variables)) == list(map(id, saved.variables))
