"""BatchNorm by hand in Keras, its state under unusual names: right, with a planted divisor, and as a deviation."""

import keras
from keras import layers, ops


class Plain(layers.Layer):
    names, wide, unbiased, power = ("mu", "sigma2"), False, False, 1.0

    def build(self, shape):
        size = (1, 1, 1, shape[-1]) if self.wide else (shape[-1],)
        self.a = self.add_weight(shape=size, initializer=keras.initializers.Constant(1.5), name="a")
        self.b = self.add_weight(shape=size, initializer="zeros", name="b")
        keeper = self.keeper()
        for name, start in zip(self.names, ("zeros", "ones"), strict=True):
            setattr(keeper, name, keeper.add_weight(shape=size, initializer=start, trainable=False, name=name))

    def keeper(self):
        return self

    def call(self, x, training=False):
        kept = [getattr(self.keeper(), name) for name in self.names]
        mean, var = kept[0], kept[1] ** (1 / self.power)
        if training:
            mean, var = (moment(x, (0, 1, 2), keepdims=self.wide) for moment in (ops.mean, ops.var))
            n = ops.size(x) / x.shape[-1]
            new = mean, (var * (n / (n - 1) if self.unbiased else 1)) ** self.power
            for held, value in zip(kept, new, strict=True):
                held.assign(0.99 * held + 0.01 * value)
        return (x - mean) / ops.sqrt(var + 1e-3) * self.a + self.b


class Wide(Plain):
    names, wide = ("avg_x", "avg_v"), True


class SampleVariance(Plain):
    names, unbiased = ("m", "v"), True


class Deviation(Plain):
    names, power = ("mid", "spread"), 0.5


class Inverse(Plain):
    names, power = ("mid", "inv_std"), -0.5


class Kept(layers.Layer):
    pass


class Nested(Plain):
    def __init__(self, **more):
        super().__init__(**more)
        self.stats = Kept()

    def keeper(self):
        self.stats.built = True
        return self.stats


def net():
    given = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(given)
    kinds = (Plain, Wide, SampleVariance, Deviation, Inverse, Nested)
    x = layers.Add()([kind(name=kind.__name__)(x) for kind in kinds])
    return keras.Model(given, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D()(x)))
