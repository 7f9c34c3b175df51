"""bncheck: why BatchNorm behaves differently, from one framework, version, device or export to another."""

__version__ = "0.1.0"
