"""How Paddle makes, runs and reads a user's layer (a paddle.nn.Layer) that stands where nn.BatchNorm2D would.

Loaded by backends/paddle.py and by subject/run.py by path. Python 3.7 syntax.
"""

import copy

FORMATS = {2: ("NCL", "NLC"), 3: ("NCL", "NLC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}


def hands(shared):
    """A Hands (own_side/layer.py) of Paddle; ``shared`` is that file."""
    import paddle
    from paddle.nn.layer import norm

    class Paddle(shared.Hands):
        title, target, usual = "Paddle", "paddle", "paddle.nn.Layer"
        base, builtin = paddle.nn.Layer, (norm._BatchNormBase,)
        words = {
            "axis": ("data_format", "axis"), "momentum": shared.NAMES["momentum"], "eps": shared.NAMES["eps"],
            "affine": ("affine",), "center": ("bias_attr", "center"), "scale": ("weight_attr", "scale"),
        }  # fmt: skip

        def like_of(self, rank):
            return "paddle.nn.BatchNorm%dD" % max(1, rank - 2)

        def switches(self, spec):
            """Arguments that only leave gamma or beta out are given where they are to be left out."""
            found = {"axis": spec["axis"], "affine": spec["affine"]}
            return found if spec["affine"] else dict(found, center=False, scale=False)

        def value(self, name, value, spec):
            return FORMATS[spec.get("rank", 2)][spec["axis"] == -1] if name == "data_format" else value

        def axis_of(self, layer, given):
            asked = given.get("data_format", given.get("axis", getattr(layer, "axis", 1)))
            if isinstance(asked, str):
                return -1 if asked.endswith("C") and asked != "NC" else 1
            return super().axis_of(layer, {"axis": asked})

        def is_tensor(self, held):
            return isinstance(held, paddle.Tensor)

        def number(self, held):
            if isinstance(held, paddle.Tensor) and held.size == 1:
                held = float(held)
            return super().number(held)

        def inner(self, layer):
            return layer.sublayers()

        def array(self, held):
            held = held.detach()
            return (held.astype("float32") if "bfloat16" in str(held.dtype) else held).numpy()

        def assign(self, layer, name, value):
            held = getattr(layer, name)
            held.set_value(paddle.to_tensor(value).astype(held.dtype))

        def learned(self, layer):
            return dict(layer.named_parameters())

        def children(self, layer):
            return dict(layer.named_children())

        def trains(self, held):
            return not held.stop_gradient

        def thaw(self, weights):
            for each in weights:
                each.stop_gradient = False

        def kept(self, layer):
            plain = {name: each for name, each in vars(layer).items() if isinstance(each, paddle.Tensor)}
            return dict(plain, **dict(layer.named_buffers()))

        def run(self, own, x):
            own.layer.train()
            with paddle.no_grad():
                return own.layer(paddle.to_tensor(x))

        def moves(self, own):
            return {
                "deepcopy": shared.attempt(lambda: copy.deepcopy(own.layer) and None),
                "state_dict and set_state_dict": shared.attempt(lambda: self.restored(own)),
            }

        def restored(self, own):
            """What a copy loses whose state comes from a state_dict alone."""
            other = shared.Own(self, copy.deepcopy(own.layer), own.turned, own.left_out)
            other.shown = own.shown
            for what in ("running_mean", "running_var"):
                held = other.find(what)
                if held is not None:
                    other.put(what, self.array(held) + 1)
            other.layer.set_state_dict(
                {name: paddle.to_tensor(self.array(each)) for name, each in own.layer.state_dict().items()}
            )
            return shared.lost(own, other)

    return Paddle()
