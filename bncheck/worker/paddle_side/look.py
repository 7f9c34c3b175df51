"""What a Paddle class of the user's makes. Loaded by subject/run.py by path; Python 3.7 syntax."""


def play(part, failed, job, folder):
    import paddle

    paddle.set_device("cpu")
    hands = part("paddle_side", "own").hands(part("own_side", "layer"))
    return part("own_side", "look").play(part, failed, job, folder, hands, paddle.__version__)
