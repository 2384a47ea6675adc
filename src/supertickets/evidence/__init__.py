"""Outcomes in, conclusions out. Knows no torch."""
