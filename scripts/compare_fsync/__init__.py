"""What scripts/compare-fsync.py consists of: the matrix, the machine, the figures and the pictures."""
