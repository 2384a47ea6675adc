"""Outcomes in, one self-contained HTML page out. Knows no torch."""
