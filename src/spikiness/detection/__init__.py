"""Telling memorized from generalized samples: evaluation with intervals, the detector, and its rivals."""

from spikiness.detection.calibration import Choice, survey, worst_of
from spikiness.detection.detector import Detector, Explanation, calibrate
from spikiness.detection.evaluation import Evaluation, evaluate

__all__ = ["Choice", "Detector", "Evaluation", "Explanation", "calibrate", "evaluate", "survey", "worst_of"]
