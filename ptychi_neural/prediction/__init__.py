"""A trained generator at work: patches, whole scans, frames as they arrive, and its doubts."""

from ptychi_neural.prediction.predictor import NeuralPredictor
from ptychi_neural.prediction.stream import PredictedObject, PredictionStream
from ptychi_neural.prediction.uncertainty import disagreement

__all__ = ["NeuralPredictor", "PredictedObject", "PredictionStream", "disagreement"]
