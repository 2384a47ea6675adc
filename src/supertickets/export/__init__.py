"""A ticket and its model for others to use."""
