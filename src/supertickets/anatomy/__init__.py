"""Where heads and FFNs sit in each model family. Reading a config needs no torch; `blocks` does."""

from supertickets.anatomy.family import FAMILIES, Family, Shape, family_of

__all__ = ["FAMILIES", "Family", "Shape", "family_of"]
