"""Where heads and FFNs sit in each model family. Reading a config needs no torch; `blocks` does."""

from supertickets.anatomy import bert, distilbert  # noqa: F401  (importing registers the families)
from supertickets.anatomy.family import Family, Shape, family_of, register_family

__all__ = ["Family", "Shape", "family_of", "register_family"]
