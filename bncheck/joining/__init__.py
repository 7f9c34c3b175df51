"""``bncheck compare``: runs of other machines, devices, versions or shards made into one."""
