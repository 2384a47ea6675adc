"""Searching for the best level without training the whole grid: methods, and their replays on recorded grids."""
