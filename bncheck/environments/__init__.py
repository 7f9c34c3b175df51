"""Who can play, and in which Python: targets by name, interpreters, devices, and environments that uv makes once.

``targets`` reads ``backend[variant]==version@device``, ``lineup`` says which of them a run cannot do without,
``pythons`` finds or makes the interpreter of each, ``backend_file`` reads what a backend says of itself. A new
framework is one file in ``bncheck/worker/backends`` (see bncheck/worker/ADDING.md).
"""
