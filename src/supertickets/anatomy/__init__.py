"""Where heads and FFNs sit in each model family. Reading a config needs no torch; `blocks` does."""

from supertickets.anatomy.family import FAMILIES, Family, Shape, family_of, why_unsupported
from supertickets.anatomy.parts import FFN, Attention, Part, rows

__all__ = ["FAMILIES", "FFN", "Attention", "Family", "Part", "Shape", "family_of", "rows", "why_unsupported"]
