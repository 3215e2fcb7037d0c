"""Pictures: grids, strips, animations and plots, as Pillow images and files."""

from clearwater.pictures.demonstrations import (
    one_shot_picture,
    plot_gradient_variance,
    plot_reverse_steps,
    plot_weights,
)
from clearwater.pictures.images import enlarged, grid, to_uint8
from clearwater.pictures.plots import plot_bound, plot_chain, plot_lengths, plot_loss
from clearwater.pictures.processes import forward_frames, forward_strip, reverse_frames, reverse_strip
from clearwater.pictures.writing import write_animation, write_picture

__all__ = [
    "enlarged",
    "forward_frames",
    "forward_strip",
    "grid",
    "one_shot_picture",
    "plot_bound",
    "plot_chain",
    "plot_gradient_variance",
    "plot_lengths",
    "plot_loss",
    "plot_reverse_steps",
    "plot_weights",
    "reverse_frames",
    "reverse_strip",
    "to_uint8",
    "write_animation",
    "write_picture",
]
