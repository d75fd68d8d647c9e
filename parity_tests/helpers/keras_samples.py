"""Keras models with attention at every level of nesting and random weights."""

import os

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")


def random_weights(layer, seed=0):
    """Fill a Keras layer or model with random weights."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(tuple(weight.shape)) / 2)
    return layer


def values(layer):
    """The bytes of all weights, in order."""
    import keras

    return [keras.ops.convert_to_numpy(weight).tobytes() for weight in layer.weights]


def functional(*layers, seed=0, length=5, dim=12):
    """A model of consecutive self-attention layers."""
    import keras

    x = given = keras.Input((length, dim))
    for layer in layers:
        x = layer(x, x)
    return random_weights(keras.Model(given, x), seed)


def nested(seed=0):
    """Attention next to and inside other layers, models inside a model, and a layer's lists and dictionaries."""
    import keras
    from keras import layers

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attend = layers.MultiHeadAttention(3, 4, dropout=0.1)
            self.parts = [layers.Dense(12), layers.MultiHeadAttention(2, 5, value_dim=3)]
            self.deep = {"any": [layers.GroupQueryAttention(4, 4, 2)]}

        def build(self, shape):
            self.attend.build(shape, shape)
            self.parts[0].build(shape)
            self.parts[1].build(shape, shape)
            self.deep["any"][0].build(shape, shape)

        def call(self, x):
            x = self.parts[0](self.attend(x, x))
            x = self.parts[1](x, x)
            return self.deep["any"][0](x, x)

    given = keras.Input((5, 12))
    inner = keras.Input((5, 12))
    attended = layers.MultiHeadAttention(2, 4, use_bias=False)(inner, inner)
    model = keras.Model(inner, layers.LayerNormalization()(attended))
    x = model(layers.MultiHeadAttention(3, 4, name="first")(given, given))
    x = keras.Sequential([keras.Input((5, 12)), layers.Dense(12), Block()])(x)
    x = layers.Attention(use_scale=True)([x, x])
    whole = keras.Model(given, layers.AdditiveAttention()([x, x]))
    whole.compile("adam", "mse")
    return random_weights(whole, seed)
