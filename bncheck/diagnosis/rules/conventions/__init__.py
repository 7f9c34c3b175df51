"""Rules of the family BN1xx: what a framework does by its rules."""
