"""Layers and models of one's own in Keras, right ones and such with one planted fault, for test_keras_own.py."""

import math

import keras
from keras import ops


class MyBN(keras.layers.Layer):
    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.momentum, self.epsilon = axis, momentum, epsilon

    def build(self, shape):
        n = shape[self.axis]
        self.gamma = self.add_weight(shape=(n,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(n,), initializer="zeros", name="beta")
        self.moving_mean = self.add_weight(shape=(n,), initializer="zeros", trainable=False, name="moving_mean")
        self.moving_variance = self.add_weight(shape=(n,), initializer="ones", trainable=False, name="moving_variance")

    def stats(self, x, axes):
        return ops.mean(x, axes), ops.var(x, axes)

    def call(self, x, training=False):
        axis = self.axis % len(x.shape)
        axes = [i for i in range(len(x.shape)) if i != axis]
        shape = [1] * len(x.shape)
        shape[axis] = x.shape[axis]
        if training:
            mean, var = self.stats(x, axes)
            self.update(x, mean, var)
        else:
            mean, var = self.moving_mean, self.moving_variance
        y = (x - ops.reshape(mean, shape)) / ops.sqrt(ops.reshape(var, shape) + self.added())
        return ops.reshape(self.scaling(), shape) * y + ops.reshape(self.beta, shape)

    def added(self):
        return self.epsilon

    def scaling(self):
        return self.gamma

    def update(self, x, mean, var):
        self.moving_mean.assign(self.momentum * self.moving_mean + (1 - self.momentum) * mean)
        self.moving_variance.assign(self.momentum * self.moving_variance + (1 - self.momentum) * var)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "momentum": self.momentum, "epsilon": self.epsilon}


class Unbiased(MyBN):
    def update(self, x, mean, var):
        n = 1
        for i, s in enumerate(x.shape):
            n *= s if i != self.axis % len(x.shape) else 1
        super().update(x, mean, var * n / (n - 1))


class Swapped(MyBN):
    def update(self, x, mean, var):
        self.moving_mean.assign((1 - self.momentum) * self.moving_mean + self.momentum * mean)
        self.moving_variance.assign((1 - self.momentum) * self.moving_variance + self.momentum * var)


class NeverEval(MyBN):
    def call(self, x, training=False):
        return super().call(x, training=True)


class NoAxis(MyBN):
    def __init__(self, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(-1, momentum, epsilon, **kwargs)


class EpsOutside(MyBN):
    def call(self, x, training=False):
        axis = self.axis % len(x.shape)
        axes = [i for i in range(len(x.shape)) if i != axis]
        shape = [x.shape[axis] if i == axis else 1 for i in range(len(x.shape))]
        mean, var = self.stats(x, axes) if training else (self.moving_mean, self.moving_variance)
        if training:
            self.update(x, mean, var)
        y = (x - ops.reshape(mean, shape)) / (ops.sqrt(ops.reshape(var, shape)) + self.epsilon)
        return ops.reshape(self.gamma, shape) * y + ops.reshape(self.beta, shape)


class NeverMoves(MyBN):
    def update(self, x, mean, var):
        pass


class EpsLiteral(MyBN):
    """Holds an epsilon and adds another."""

    def added(self):
        return 1e-1


class SampleVariance(MyBN):
    def stats(self, x, axes):
        mean, var = super().stats(x, axes)
        return mean, var * self.count(x) / (self.count(x) - 1)

    def count(self, x):
        return math.prod(x.shape) / x.shape[self.axis]

    def update(self, x, mean, var):
        super().update(x, mean, var * (self.count(x) - 1) / self.count(x))


class MeanForVariance(MyBN):
    def update(self, x, mean, var):
        super().update(x, var, mean)


class FirstSample(MyBN):
    def stats(self, x, axes):
        return super().stats(x[:1], axes)


class OnePlusGamma(MyBN):
    def scaling(self):
        return 1 + self.gamma


class RunningInTraining(MyBN):
    def stats(self, x, axes):
        super().update(x, *super().stats(x, axes))
        return self.moving_mean, self.moving_variance

    def update(self, x, mean, var):
        pass


class WithRelu(MyBN):
    """Right, with an activation behind it."""

    def call(self, x, training=False):
        return ops.relu(super().call(x, training))


class Derived(keras.layers.BatchNormalization):
    """The framework's own under another name."""


class NewMomentum(MyBN):
    """Right; its momentum is the weight of the new batch, and it was given such a one."""

    def __init__(self, axis=-1, momentum=0.1, epsilon=1e-3, **kwargs):
        super().__init__(axis, 0.1, epsilon, **kwargs)

    def update(self, x, mean, var):
        self.moving_mean.assign((1 - self.momentum) * self.moving_mean + self.momentum * mean)
        self.moving_variance.assign((1 - self.momentum) * self.moving_variance + self.momentum * var)


class Raises(MyBN):
    def call(self, x, training=False):
        raise ValueError("not today")


def build(norm="builtin"):
    make = keras.layers.BatchNormalization if norm == "builtin" else globals().get(norm, MyBN)
    x = inputs = keras.Input((6, 6, 3))
    for place in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same")(x)
        x = make(momentum=0.9, name=f"bn{place}")(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return {"features": self.bn(self.conv(x), training=training)}


def subclassed():
    model = Subclassed()
    model(ops.zeros((1, 6, 6, 3)))
    return model


def negative():
    model = build()
    model.get_layer("bn1").moving_variance.assign([0.3, -0.2, 0.1, 0.5])
    return model


class Trains(keras.Model):
    """Hands `training` of its own to its layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return self.bn(self.conv(x), training=True)


def trains():
    model = Trains()
    model(ops.zeros((1, 6, 6, 3)))
    return model


ZOO = (
    "MyBN", "WithRelu", "NewMomentum", "Derived", "Unbiased", "Swapped", "EpsOutside", "EpsLiteral", "SampleVariance",
    "NeverEval", "NeverMoves", "MeanForVariance", "FirstSample", "OnePlusGamma", "RunningInTraining",
)  # fmt: skip


def zoo():
    """One layer of each kind, side by side, each under the name of its class."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.Add()([globals()[name](momentum=0.9, name=name)(x) for name in ZOO])
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
