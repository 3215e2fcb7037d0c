"""How good samples are: what a classifier sees in them, and how far that is from what it sees in the data."""

from clearwater.evaluation.features import GarmentClassifier, load_garment_classifier
from clearwater.evaluation.fidelity import Moments, frechet_distance

__all__ = ["GarmentClassifier", "Moments", "frechet_distance", "load_garment_classifier"]
