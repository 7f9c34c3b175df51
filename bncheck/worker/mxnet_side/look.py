"""What a Gluon class of the user's makes. Loaded by subject/run.py by path; Python 3.7 syntax."""


def play(part, failed, job, folder):
    import mxnet as mx

    if int(mx.__version__.split(".")[0]) >= 2:
        mx.npx.set_np()
    hands = part("mxnet_side", "own").hands(part("own_side", "layer"))
    return part("own_side", "look").play(part, failed, job, folder, hands, mx.__version__)
