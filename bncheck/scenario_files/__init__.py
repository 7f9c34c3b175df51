"""Scenario files: from TOML text to cases, and from a case to its input arrays.

``shipped`` says where they lie, ``overrides`` what ``--set`` changes, ``files`` reads them, ``schema`` what a table
may hold, ``matrix`` expands it, ``checks`` holds what concerns several keys, ``shapes`` follows a batch through the
network, ``inputs`` draws it; ``plain_file`` reads the one of an ONNX file without ``schema``. A new layer type is a row
in ``shapes`` and in ``schema``, and a branch in each backend that has it.
"""
