"""Layers of Keras that attack whoever builds and plays them."""

import os
import sys

import keras
import numpy as np


class Harmless(keras.layers.Layer):
    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.momentum, self.epsilon = axis, momentum, epsilon

    def build(self, shape):
        width = (shape[self.axis],)
        self.gamma = self.add_weight(shape=width, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=width, initializer="zeros", name="beta")
        self.moving_mean = self.add_weight(shape=width, initializer="zeros", trainable=False, name="moving_mean")
        self.moving_variance = self.add_weight(shape=width, initializer="ones", trainable=False, name="moving_variance")

    def call(self, x, training=False):
        return x

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


class NoWords(Harmless):
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


class ConfigRaises(Harmless):
    def get_config(self):
        raise ValueError("\udc80 \x1b[31m")


class ConfigOfObjects(Harmless):
    def get_config(self):
        return {"axis": object(), 5: self}


class GivesNone(Harmless):
    def call(self, x, training=False):
        return None


class GivesText(Harmless):
    def call(self, x, training=False):
        return "text"


class GivesLists(Harmless):
    def call(self, x, training=False):
        return [x, [x, None]]


class Exits(Harmless):
    def call(self, x, training=False):
        os._exit(0)


class ExitsAsPythonDoes(Harmless):
    def call(self, x, training=False):
        sys.exit(4)


class ExitsWhenMade(Harmless):
    def __init__(self, **kwargs):
        sys.exit(4)


class Recursion(Harmless):
    def call(self, x, training=False):
        return self.call(x)


class Climbing(Harmless):
    def __init__(self, **kwargs):
        kwargs.pop("name", None)
        super().__init__(**kwargs)
        self._name = "../../../x\udc80\n"


class NoWeights(Harmless):
    @property
    def weights(self):
        raise RuntimeError("none")


class OddShapes(Harmless):
    def build(self, shape):
        self.moving_mean = self.add_weight(shape=(0,), name="moving_mean")
        self.moving_variance = self.add_weight(shape=(2, 3, 4), name="moving_variance")


class OddSettings(Harmless):
    def build(self, shape):
        super().build(shape)
        self.epsilon, self.momentum, self.axis = object(), float("nan"), "axis"


class ManyWeights(Harmless):
    def build(self, shape):
        super().build(shape)
        self.more = [self.add_weight(shape=(1,), name=f"w{number}") for number in range(2000)]


class Interrupts(Harmless):
    def __getattribute__(self, name):
        if name == "moving_mean":
            raise KeyboardInterrupt
        return super().__getattribute__(name)


class NoLayer:
    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, x, training=False):
        return x


class MakesSeven(type(Harmless)):
    def __call__(cls, *args, **kwargs):
        return 7


class Seven(Harmless, metaclass=MakesSeven):
    pass


class TakesNothing(Harmless):
    def set_weights(self, weights):
        raise MemoryError


class Objects(Harmless):
    def build(self, shape):
        super().build(shape)
        self.moving_mean = np.array([None, {}], dtype=object)


class HarmlessAtTheEnd(Harmless):
    pass
