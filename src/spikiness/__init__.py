"""Measure whether a denoiser memorizes or generalizes, from its weights and its representations."""

import os

# Idle OpenMP threads that spin make torch several times slower beside any other busy process; only before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
