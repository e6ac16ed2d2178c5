"""Images as one float tensor [N, C, H, W] in [-1, 1], ways to pick and alter samples, and mixtures of Gaussians."""

from spikiness.fingerprints import NAMES, fingerprint, places
from spikiness.images.datasets import Images, load
from spikiness.images.door import check
from spikiness.images.gaussians import mixture, random_factors, simplex_means
from spikiness.images.transforms import centre, distinct, duplicate, greyscale, halves, resize, subset

__all__ = [
    "NAMES",
    "Images",
    "centre",
    "check",
    "distinct",
    "duplicate",
    "fingerprint",
    "greyscale",
    "halves",
    "load",
    "mixture",
    "places",
    "random_factors",
    "resize",
    "simplex_means",
    "subset",
]
