"""Of a run's report: the commands that make each of its figures again, and those that go on with the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from clearwater.config import Config
from clearwater.data import unseen_split
from clearwater.errors import InputError
from clearwater.recipes import recipe_names, suited_recipe
from clearwater.settings import resolve

__all__ = ["forward_strip", "how", "next_steps", "offer", "previews", "reverse_strip", "train_again"]

# As the pictures are made in training.
_PREVIEWED, _ROWS, _STEPS = 16, 4, 20


def how(commands: Sequence[Sequence[str]], note: str = "") -> str:
    """What unfolds to the commands that make a figure again, and a word on what comes out otherwise."""
    said = f"<p>{escape(note)}</p>" if note else ""
    return f'<details class="how"><summary>How to make this again</summary>{said}{_listed(commands)}</details>'


def offer(sentence: str, words: Sequence[str]) -> str:
    """In the place of a figure that was not made: the command that makes it."""
    return f'<p class="soft">{escape(sentence)}</p>{_listed([words])}'


def next_steps(folder: Path, config: Config, *, finished: bool, averages: bool) -> str:
    """What to do next, as commands that can be copied.

    Args:
        folder: of the run.
        config: of the run.
        finished: whether training came to its end.
        averages: whether copies of averages were kept.
    """
    run, source, training = str(folder), config.data.source, config.training
    go_on = _train(folder, config, run)
    if finished and training.steps is not None:
        go_on += ["--steps", str(2 * training.steps)]
    elif finished and training.minutes is not None:
        go_on += ["--minutes", f"{2 * training.minutes:g}"]
    shown = [
        ("Train on, to twice the length" if finished else "Go on with training", go_on),
        ("Sample", ["sample", run, "--out", str(folder / "samples")]),
        ("Measure the bound on images", ["bound", run, source, "--variance", "optimal"]),
    ]
    if averages:
        shown.append(("Compare averages of the weights", ["ema", run]))
    rows = (f"<dt>{escape(what)}</dt><dd>{_listed([words])}</dd>" for what, words in shown)
    return f'<dl class="commands">{"".join(rows)}</dl>'


def train_again(folder: Path, config: Config) -> str:
    """How to train the same run once more, beside it."""
    note = (
        "On the same machine with as many threads every bit is the same, unless the run had first come to another end."
        if config.training.steps is not None
        else "The clock ends it, so that it has not quite as many steps, and other figures in the last digits."
    )
    words = _train(folder, config, f"{folder}-again")
    if config.data.held_out is None and unseen_split(config.data.source) == "train":
        words += ["--set", "data.held_out=0"]  # else a new run holds some out
    return how([words], note)


def previews(folder: Path, config: Config) -> str:
    """How to draw the newest samples again."""
    words = ["sample", str(folder), "--out", str(folder / "samples"), "--n", str(_PREVIEWED), *_classes(config)]
    return how([words], "The newest, as grid.png. Those before are of weights that are no longer kept.")


def forward_strip(folder: Path) -> str:
    """How to draw the strip of the forward process again."""
    return how([["show", "forward", str(folder), "--out", "forward.png", "--n", str(_ROWS)]])


def reverse_strip(folder: Path, config: Config) -> str:
    """How to draw the strip of the reverse process again."""
    steps = str(min(_STEPS, config.chain.levels))
    words = ["show", "reverse", str(folder), "--out", "reverse.png", "--n", str(_ROWS), "--sampler", "unipc"]
    return how([[*words, "--levels", steps, *_classes(config)]])


def _classes(config: Config) -> list[str]:
    return ["--classes", "all"] if config.data.labels and config.data.classes else []


def _listed(commands: Sequence[Sequence[str]]) -> str:
    return "".join(f"<pre>{escape(shlex.join(['clearwater', *words]))}</pre>" for words in commands)


def _train(folder: Path, config: Config, out: str) -> list[str]:
    """The command that trains with the settings of a run; into its own folder it goes on with it."""
    words = ["train", config.data.source, "--out", out, "--config", str(folder / "config.toml")]
    start = config.training.start
    return words + (["--from", start] if start is not None else _recipe(folder, config))


def _recipe(folder: Path, config: Config) -> list[str]:
    """The recipe over which the run's file is the run: it decides on what the file leaves unset."""
    data = config.data
    suited = None if data.channels is None or data.size is None else suited_recipe(data.channels, data.size)
    for name in sorted(recipe_names(), key=lambda name: name != suited):  # which is the default
        try:
            if resolve(recipe=name, file=folder / "config.toml") == config:
                return [] if name == suited else ["--recipe", name]
        except InputError:
            continue
    return []
