"""How spiky a representation is, which samples copy training images and how good they are, how far two denoisers are
apart; intervals."""

from spikiness.measures.denoising import Distance, StoredColumns, distance, psnr, stored_columns
from spikiness.measures.intervals import bootstrap, clusters, to_numpy, wilson
from spikiness.measures.neighbors import (
    Memorization,
    NearDuplicates,
    memorization,
    near_duplicates,
    nearest,
    same_image_tolerance,
)
from spikiness.measures.quality import (
    KernelDistance,
    PrecisionRecall,
    Quality,
    kernel_distance,
    precision_recall,
    quality,
)
from spikiness.measures.spikiness import (
    MEASURES,
    Measure,
    gini,
    hoyer,
    kurtosis,
    l4_l2,
    participation_ratio,
    std,
    std_over_norm,
)

__all__ = [
    "MEASURES", "Distance", "KernelDistance", "Measure", "Memorization", "NearDuplicates", "PrecisionRecall", "Quality",
    "StoredColumns", "bootstrap", "clusters", "distance", "gini", "hoyer", "kernel_distance", "kurtosis", "l4_l2",
    "memorization", "near_duplicates", "nearest", "participation_ratio", "precision_recall", "psnr", "quality",
    "same_image_tolerance", "std", "std_over_norm", "stored_columns", "to_numpy", "wilson",
]  # fmt: skip
