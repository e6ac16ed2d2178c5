"""Telling memorized from generalized samples: evaluation with intervals, the detector, and its rivals."""

from spikiness.detection.baselines import BASELINES, CONTROLS, Method
from spikiness.detection.calibration import Probe, grid_search, pick, responsive_layers, worst_of
from spikiness.detection.detector import Detector, Explanation, calibrate
from spikiness.detection.evaluation import Evaluation, compare, evaluate
from spikiness.errors import renamed

__all__ = [
    "BASELINES", "CONTROLS", "Detector", "Evaluation", "Explanation", "Method", "Probe", "calibrate", "compare",
    "evaluate", "grid_search", "pick", "responsive_layers", "worst_of",
]  # fmt: skip

_RENAMED = {"Choice": "Probe", "survey": "grid_search", "seeing_layers": "responsive_layers"}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    renamed(f"detection.{name}", f"detection.{_RENAMED[name]}")
    return globals()[_RENAMED[name]]
