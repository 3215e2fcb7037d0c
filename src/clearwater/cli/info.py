"""`clearwater info`: what a run is and how far it came."""

from __future__ import annotations

import json

from clearwater.cli.options import AsJson, Run
from clearwater.cli.progress import duration, say

__all__ = ["info"]


def info(
    run: Run,
    as_json: AsJson = False,
) -> None:
    """Show RUN's configuration, parameters, steps, images seen and time."""
    from clearwater.training import RunFolder

    folder = RunFolder.open(run)
    config = folder.config()
    weights, place = folder.model()
    for warning in folder.warnings:
        say(warning)
    parameters = sum(value.numel() for value in weights.values())
    if as_json:
        facts = {
            "run": str(run),
            "parameters": parameters,
            "steps": place.step,
            "images_seen": place.images,
            "seconds": place.seconds,
            "config": config.model_dump(mode="json"),
        }
        print(json.dumps(facts, indent=1))
        return
    print(config.to_toml())
    for name, value in (
        ("parameters", f"{parameters:,}"),
        ("steps", f"{place.step:,}"),
        ("images seen", f"{place.images:,}"),
        ("training time", duration(place.seconds)),
    ):
        print(f"{name:14} {value}")
