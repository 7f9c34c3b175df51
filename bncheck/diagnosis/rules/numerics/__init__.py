"""Rules of the family BN2xx: what arithmetic loses."""
