"""How good samples are: what a network sees in them, and how far that is from what it sees in the data."""

from clearwater.evaluation.extractors import Extractor, Seen
from clearwater.evaluation.features import features_of
from clearwater.evaluation.fidelity import Moments, frechet_distance, images_needed
from clearwater.evaluation.garments import GarmentClassifier, load_garment_classifier
from clearwater.evaluation.material import Material
from clearwater.evaluation.measurement import Compared, Measurement, measured
from clearwater.evaluation.naming import EXTRACTORS, extractor

__all__ = [
    "EXTRACTORS",
    "Compared",
    "Extractor",
    "GarmentClassifier",
    "Material",
    "Measurement",
    "Moments",
    "Seen",
    "extractor",
    "features_of",
    "frechet_distance",
    "images_needed",
    "load_garment_classifier",
    "measured",
]
