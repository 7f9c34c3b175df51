"""A run whose parts are played by other machines: ``bncheck run --executor dask://HOST:PORT``.

The plan is cut into parts (one target, a share of the cases), each travels as data, a worker of the fleet plays it as
``bncheck run --resume`` does, and what comes back is a run folder. They are joined as ``bncheck compare`` joins.
"""
