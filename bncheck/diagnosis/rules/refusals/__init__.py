"""Rules of the family BN5xx: what a side does not carry out."""
