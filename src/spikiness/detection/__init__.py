"""Telling memorized from generalized samples: evaluation with intervals, the detector, and its rivals."""

from spikiness.detection.baselines import BASELINES, Method
from spikiness.detection.calibration import Choice, pick, survey, worst_of
from spikiness.detection.detector import Detector, Explanation, calibrate
from spikiness.detection.evaluation import Evaluation, compare, evaluate

__all__ = [
    "BASELINES", "Choice", "Detector", "Evaluation", "Explanation", "Method", "calibrate", "compare", "evaluate",
    "pick", "survey", "worst_of",
]  # fmt: skip
