"""A ticket applied to a model: gated (everything still computed) or cut (really smaller)."""
