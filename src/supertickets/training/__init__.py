"""One training path: recipe and data in, epochs and weights out."""
