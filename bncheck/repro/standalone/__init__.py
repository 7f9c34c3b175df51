"""Scripts that need no bncheck: what every framework's script has in common. One file per framework: ../scripts."""
