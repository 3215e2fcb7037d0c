"""Training: a generator of events, an average of the weights, and checkpoints that resume to the bit."""

from clearwater.training.checkpoint import Checkpoint, Place
from clearwater.training.ema import EMA
from clearwater.training.events import Event, NotSaved, Progress, Saved, Stopped, WentBack
from clearwater.training.loading import load_denoiser
from clearwater.training.run import RunFolder
from clearwater.training.trainer import Trainer

__all__ = [
    "EMA",
    "Checkpoint",
    "Event",
    "NotSaved",
    "Place",
    "Progress",
    "RunFolder",
    "Saved",
    "Stopped",
    "Trainer",
    "WentBack",
    "load_denoiser",
]
