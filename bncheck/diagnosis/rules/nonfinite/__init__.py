"""Rules of the family BN3xx: NaN, Inf and variances that cannot be one."""
