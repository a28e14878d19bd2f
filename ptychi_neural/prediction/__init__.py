"""A trained generator at work: patches, whole scans, frames as they arrive, and its doubts."""

from ptychi_neural.prediction.acceleration import Accelerations
from ptychi_neural.prediction.deviation import deviation
from ptychi_neural.prediction.predicted_object import PredictedObject
from ptychi_neural.prediction.predictor import NeuralPredictor
from ptychi_neural.prediction.stream import PredictionStream

__all__ = ["Accelerations", "NeuralPredictor", "PredictedObject", "PredictionStream", "deviation"]
