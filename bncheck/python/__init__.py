"""bncheck from Python: ``bncheck.judge``, ``watch``, ``check``, ``diff`` and the assertions, for notebooks and tests.

``bncheck/__init__.py`` hands these names out when they are first asked for, so that ``import bncheck`` imports neither
NumPy nor pandas. Nothing here imports a framework: what has to be asked of one is a file of ``bncheck/worker``, loaded
by its path, as everywhere.
"""
