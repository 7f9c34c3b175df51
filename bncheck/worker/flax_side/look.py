"""What a Flax class of the user's makes. Loaded by subject/run.py by path; Python 3.7 syntax."""


def play(part, failed, job, folder):
    part("jax_side", "start").import_jax("cpu")
    import flax

    hands = part("flax_side", "own").hands(part("own_side", "layer"))
    return part("own_side", "look").play(part, failed, job, folder, hands, flax.__version__)
