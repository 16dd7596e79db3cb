"""Spectra and comparisons of curvature matrices."""
