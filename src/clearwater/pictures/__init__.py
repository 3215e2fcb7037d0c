"""Pictures: grids, strips, animations and plots, as Pillow images and files."""

from clearwater.pictures.comparison import Curve, Standing, plot_comparison, shortened
from clearwater.pictures.demonstrations import (
    one_shot_picture,
    plot_gradient_variance,
    plot_reverse_steps,
    plot_weights,
)
from clearwater.pictures.images import enlarged, grid, to_uint8
from clearwater.pictures.plots import plot_bound, plot_chain, plot_lengths, plot_loss
from clearwater.pictures.processes import columns_of, forward_frames, forward_strip, reverse_frames, reverse_strip
from clearwater.pictures.writing import png_of, step_of, write_animation, write_picture

__all__ = [
    "Curve",
    "Standing",
    "columns_of",
    "enlarged",
    "forward_frames",
    "forward_strip",
    "grid",
    "one_shot_picture",
    "plot_bound",
    "plot_chain",
    "plot_comparison",
    "plot_gradient_variance",
    "plot_lengths",
    "plot_loss",
    "plot_reverse_steps",
    "plot_weights",
    "png_of",
    "reverse_frames",
    "reverse_strip",
    "shortened",
    "step_of",
    "to_uint8",
    "write_animation",
    "write_picture",
]
