"""Rules of the family BN4xx: what became of modes, copies, files and graphs."""
