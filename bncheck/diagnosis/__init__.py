"""From traces to findings: conventions (``fit``), replay, drifts, rules, and which finding accounts for what.

Everything here but ``analyse`` is a pure function of frozen data. A new cause is one file in ``rules``, named after its
code and cause, that says in words what else it explains, with its literal test and its row in docs/rules.md.
"""
