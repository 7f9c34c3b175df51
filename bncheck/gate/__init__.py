"""What a run is held against: charges, the bar of ``--fail-on``, accepted findings, waivers, and the exit code."""
