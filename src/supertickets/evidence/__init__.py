"""Outcomes in, conclusions out. Knows no torch."""

from supertickets.errors import needs

needs("report", "A study, with its tables and its report,")  # here, as every file of this package and all pages need it
