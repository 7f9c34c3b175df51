"""What leaves bncheck with a finding: scripts that show it without bncheck, the smallest case, the text of an issue.

A new kind of script is one file in ``scripts``, named after its backend.
"""
