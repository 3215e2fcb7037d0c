"""Which levels of noise a sampler visits: those of a grid that is asked for by name, from all noise or from a level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.chains import Chain
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.training import RunFolder

__all__ = ["sampling_chain", "starting_chain"]

_STEPS = 20


def starting_chain(chain: Chain, level: float) -> Chain:
    """The lower part of a chain: from the level whose time is nearest to `level`, and at least one step."""
    if not 0 < level <= 1:
        raise InputError(f"--level is a time above 0 (the image as it is) up to 1 (all noise), not {level}.")
    last = max(1, int((chain.levels.time - level).abs().argmin()))
    return chain.with_levels(chain.levels[: last + 1])


def sampling_chain(
    folder: RunFolder,
    network: NetworkDenoiser,
    grid: str,
    steps: int | None,
    *,
    clip: bool,
    level: float = 1.0,
    shift: float | None = None,
) -> Chain:
    """The levels of a grid that is asked for by name, from a level down.

    All of them if it is named all, else 20 if no number is given. The grid shifted is shifted as the run's times were,
    if they were and no other shift is given. A fitted grid is fitted to the whole way, of which
    the part below the level is taken.
    """
    from clearwater.cli.models import fitted_grid, optimal_variance
    from clearwater.sampling import GRIDS, fitted_to_bound, shifted

    T = network.chain.T
    if grid == "fitted":
        made = fitted_grid(folder, network, clip=clip)(network.chain, steps or min(_STEPS, T))
        return starting_chain(made, level)
    if grid == "bound":
        optimal = optimal_variance(folder, network, clip=clip)
        return starting_chain(fitted_to_bound(optimal)(network.chain, steps or min(_STEPS, T)), level)
    if grid not in GRIDS:
        raise InputError(f"There is no grid named '{grid}': choose one of {', '.join(GRIDS)}, fitted, bound.")
    part = starting_chain(network.chain, level)
    wanted = steps or (part.T if grid == "all" else min(_STEPS, part.T))
    wanted = wanted if level == 1 else min(wanted, part.T)
    if grid == "shifted":
        of_run = folder.config().objective.shift
        shift = shift if shift is not None else of_run if of_run != 1 else None
        return shifted(part, wanted) if shift is None else shifted(part, wanted, shift)
    return GRIDS[grid](part, wanted)
