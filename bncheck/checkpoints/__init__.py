"""Readers of checkpoints: a file of any framework becomes a :class:`~bncheck.life.Holding`, without the framework.

The way: ``recognise`` (which kind, by content first) → a reader per format (``torch_file``, ``arrays``,
``safetensors_file``, …) gives a tree → ``tree`` finds the states in it → ``normalisers`` tells layers by names and
shapes. Nothing of a file is executed, everything is bounded, and only the arrays of normalising layers are read.

A format is a file here and a row in ``recognise``.
"""
