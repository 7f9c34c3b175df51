"""Rules of the family BN9xx: rounding, and what nobody explains."""
