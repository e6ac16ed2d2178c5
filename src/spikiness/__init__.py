"""Measure whether a denoiser memorizes or generalizes, from its weights and its representations."""

__version__ = "0.1.0"
