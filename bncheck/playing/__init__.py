"""Playing cases on targets: the plan, its jobs, the worker processes, and what becomes of one that does not answer."""
