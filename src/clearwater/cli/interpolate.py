"""`clearwater interpolate`: the images between two, through the noise that a sampler makes them of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.grids import starting_chain
from clearwater.cli.making import known_image
from clearwater.cli.models import load_for_sampling
from clearwater.cli.options import Device, Run, refuse_picture
from clearwater.cli.progress import live_line, say
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["interpolate"]

_STEPS = 100

_End = Annotated[str, typer.Argument(help="A file, or a number: the seed of a sample.", show_default=False)]


def interpolate(
    run: Run,
    a: _End,
    b: _End,
    out: Annotated[Path, typer.Option("--out", help="The picture, .png.", show_default=False)],
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many images, the ends with them.")] = 9,
    level: Annotated[float, typer.Option(help="How far back to go, above 0 to 1: the further, the freer.")] = 1.0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="How many steps from all noise.", show_default="100")
    ] = None,
    device: Device = "auto",
) -> None:
    """A row of images from A to B, each an image file or the seed of a sample: both ends encoded, mixed, decoded."""
    import torch

    from clearwater.chains import Chain
    from clearwater.pictures import enlarged, grid, to_uint8, write_picture
    from clearwater.randomness import ImageNoise
    from clearwater.sampling import Encoded, Heun, encode, interpolate_encoded, sampling_states
    from clearwater.sampling.steps import no_noise

    refuse_picture(out, ".png")
    for end in (a, b):
        _refuse_end(end)
    denoiser, shape, chosen = load_for_sampling(run, device=device)
    whole = denoiser.chain.strided(steps or min(_STEPS, denoiser.chain.T))
    chain, stepper = starting_chain(whole, level), Heun()
    top = chain.levels[-1]

    def decoded(x_t: torch.Tensor, chain: Chain, at: int = 0) -> torch.Tensor:
        """x at level `at`, of x at the chain's last level."""
        states = sampling_states(denoiser, no_noise, chain, stepper, x_t)
        return next(state.x for state in states if state.k == at)

    def encoded(end: str) -> Encoded:
        if not _is_seed(end):
            x_0 = known_image(Path(end), shape).to(chosen)
            return Encoded(x_0, encode(denoiser, x_0, chain, stepper), top)
        drawn = ImageNoise(int(end), [0], shape, chosen)() * float(whole.prior_variance.sqrt())
        x_t = decoded(drawn, whole, chain.T) if chain.T < whole.T else drawn
        return Encoded(decoded(x_t, chain), x_t, top)

    with live_line("interpolating") as report:
        ends = encoded(a), encoded(b)
        mixed = torch.cat([interpolate_encoded(*ends, i / (n - 1)) for i in range(n)])
        for state in sampling_states(denoiser, no_noise, chain, stepper, mixed):
            report(1 - state.k / chain.T, f"{n} images")
    write_picture(out, enlarged(grid(to_uint8(state.x), columns=n)))
    say(f"Wrote '{out}'.")


def _refuse_end(end: str) -> None:
    if not _is_seed(end) and end.removeprefix("-").isdecimal() and not Path(end).exists():
        raise InputError(f"A and B are files, or seeds from 0 on, not {end}.")


def _is_seed(end: str) -> bool:
    return end.isascii() and end.isdecimal() and not Path(end).exists()
