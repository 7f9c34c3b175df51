"""One layer's life, measured: what it did at each moment that was kept, and what parts training from evaluation.

:mod:`record` reads the moments, :mod:`in_place` replays each of them by the rules that the framework documents,
:mod:`fitted` measures the rules of a layer that has no documentation, :mod:`gap` splits what separates an evaluation
from the batch's own statistics, :mod:`judged` looks at all layers together. Pure functions; the rules make sentences.
"""
