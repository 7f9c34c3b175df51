"""The folder of a run: what lies where, how a cell's arrays are read back, and ``run.json``.

What is read here is untrusted: sizes are bounded, links are refused, nothing is unpacked.
"""
