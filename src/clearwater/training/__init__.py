"""Training: a generator of events, an average of the weights, and checkpoints that resume to the bit."""

from clearwater.training.checkpoint import Checkpoint, RunFolder
from clearwater.training.ema import EMA
from clearwater.training.loading import load_denoiser
from clearwater.training.trainer import Event, Progress, Saved, Stopped, Trainer

__all__ = ["EMA", "Checkpoint", "Event", "Progress", "RunFolder", "Saved", "Stopped", "Trainer", "load_denoiser"]
