"""A small classifier in Keras, right and with one fault each, for test_planted.py; ``python FILE FAULT`` trains it.

A list, a tuple or a dict of layers is Keras's to find: what hides a layer there is an object of one's own.
"""

import sys

import keras
import numpy as np
from keras import layers


def net(body=None, norm=layers.BatchNormalization, shared=None, **settings):
    given = x = keras.Input((8, 8, 3))
    for name, kind, asked in (
        ("stem", layers.BatchNormalization, settings),
        ("body", norm, settings if body is None else body),
    ):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = layers.ReLU()((shared or kind(name=f"{name}_norm", **asked))(x))
    x = layers.BatchNormalization(name="head_norm", **settings)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(given, layers.Dense(5, name="head")(x))


def trained(model, steps=10):
    dice = np.random.default_rng(1)
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = (dice.standard_normal((16 * steps, 8, 8, 3)) * 2 + 1).astype("float32")
    model.fit(x, dice.integers(0, 5, 16 * steps), batch_size=16, epochs=1, verbose=0)
    return model


def put(variable, place, value):
    array = keras.ops.convert_to_numpy(variable).copy()
    array[place] = value
    variable.assign(array)


def healthy():
    return trained(net(momentum=0.9))


def healthy_branch():
    """One branch for two inputs: its BatchNorm runs twice, and is meant to."""
    given, conv, norm = keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.BatchNormalization()
    one, two = (norm(conv(x)) for x in (given, layers.Permute((2, 1, 3))(given)))
    pooled = layers.GlobalAveragePooling2D()(layers.ReLU()(one) + layers.ReLU()(two))
    return trained(keras.Model(given, layers.Dense(5)(pooled)))


def healthy_frozen():
    """Frozen as Keras has it: such a layer runs in inference."""
    model = trained(net())
    for name in ("stem_conv", "stem_norm"):
        model.get_layer(name).trainable = False
    return model


class AlwaysBatch(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = layers.Conv2D(8, 3), layers.BatchNormalization(name="norm")
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(5)

    def call(self, x, training=None):
        return self.head(self.pool(keras.ops.relu(self.norm(self.conv(x), training=True))))


def no_running_statistics():
    return trained(called(AlwaysBatch()))


def called(model):
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


def never_moves():
    return trained(net(body={"momentum": 1.0}))


def nan_variance():
    model = trained(net())
    put(model.get_layer("stem_norm").moving_variance, 3, float("nan"))
    return model


def negative_variance():
    model = trained(net())
    put(model.get_layer("body_norm").moving_variance, 2, -1.0)
    return model


def statistics_lost():
    model = net()
    for mine, its in zip(model.trainable_variables, trained(net()).trainable_variables, strict=True):
        mine.assign(its)
    return model


def frozen_by_halves():
    model = trained(net())
    for name in ("stem_conv", "stem_norm"):
        for each in model.get_layer(name).trainable_variables:
            each.trainable = False
    return model


def at_two_places():
    return trained(net(shared=layers.BatchNormalization(name="norm")))


class Holder:
    def __init__(self, *norms):
        self.norms = norms


class Hidden(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(8, 3), layers.Dense(5)
        self.pool, self.held = layers.GlobalAveragePooling2D(), Holder(layers.BatchNormalization())

    def call(self, x, training=None):
        x = self.conv(x)
        for norm in self.held.norms:
            x = keras.ops.relu(norm(x, training=training))
        return self.head(self.pool(x))


def in_a_plain_list():
    return trained(called(Hidden()))


@keras.saving.register_keras_serializable()
class BatchAlways(layers.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=True, mask=mask)


def ignores_eval():
    return trained(net(norm=BatchAlways))


class Trains(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def call(self, x, training=None):
        return self.inner(x, training=True)


def forward_trains():
    return trained(called(Trains()))


def lags():
    return trained(net(momentum=0.999), 20)


def low_precision():
    return trained(net(body={"dtype": "bfloat16"}))


if __name__ == "__main__":
    model = globals()[sys.argv[1]]()
    model.evaluate((np.random.default_rng(2).standard_normal((48, 8, 8, 3)) * 2 + 1).astype("float32"), np.zeros(48),
                   batch_size=16, verbose=0)  # fmt: skip
