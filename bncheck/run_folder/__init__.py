"""The folder of a run: what lies where, how a cell's arrays are read back, and ``run.json``.

Nobody vouches for what is read here: sizes are bounded, links are refused, nothing is unpacked.
"""
