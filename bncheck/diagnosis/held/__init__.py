"""Two holdings side by side: which layers belong together, how each quantity of them differs, what that means, and
whether one is the other with its BatchNorm folded. Pure."""
