"""The pages of docs/mathematics, and the guide to sampling: examples run, links lead somewhere, commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer

from clearwater.assembly import build_objective
from clearwater.cli import app
from clearwater.errors import InputError
from clearwater.settings import resolve

FOLDER = Path(__file__).parents[1] / "docs" / "mathematics"
PAGES = sorted(FOLDER.glob("*.md"))

GUIDE = FOLDER.parent / "sampling.md"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
each_text = pytest.mark.parametrize("page", [*PAGES, GUIDE], ids=lambda page: page.stem)


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a language, with the number of lines before each."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)), match[1]


def prose(text: str) -> str:
    """The page without its blocks, in which brackets mean other things."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """The relative links and images of a page that lead nowhere."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    return dead


def parse(line: str) -> None:
    """Parses a command line as the program would, without running it; fails if the program would refuse it."""
    name, *arguments = shlex.split(line)
    assert name == "clearwater"
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        command = command.commands[name]
    given = command.make_context(name, arguments).params
    if given.get("set_"):
        build_objective(resolve(recipe=given["recipe"] or "small-grey", sets=given["set_"]))


@each_page
def test_the_examples_run_and_what_they_assert_holds(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": page.stem}
    examples = list(blocks(text, "python"))
    assert any("assert" in code for _, code in examples), "a page checks what it claims"
    for before, code in examples:
        # The empty lines put the page's own line numbers into an error.
        exec(compile("\n" * before + code, str(page), "exec"), names)


@each_text
def test_links_and_images_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A head\n[a](page.md#a-head) [b](#other) ![c](missing.png)\n```python\nx[0](gone)\n```\n")
    assert dead_links(page) == ["#other", "missing.png"]


@each_text
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    for _, block in blocks(page.read_text(), "sh"):
        for line in block.strip().splitlines():
            parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "clearwater show nothing",
        "clearwater bound runs/mine fashion-mini --nonsense 3",
        "clearwater bound runs/mine",
        "clearwater sample runs/mine --out runs/mine/samples --variance none",
        "clearwater train fashion-mini --out runs/mine --set objective=none",
        "clearwater train fashion-mini --out runs/mine --set objective=simple --set chain.variance=learned_range",
    ],
)
def test_a_command_that_does_not_exist_is_seen(line: str) -> None:
    with pytest.raises((KeyError, InputError, typer.TyperException)):  # KeyError: no command of this name
        parse(line)


@each_text
def test_commands_within_sentences_exist(page: Path) -> None:
    for line in re.findall(r"`(clearwater [^`]+)`", prose(page.read_text())):
        words = shlex.split(line)[1:]
        command = typer.main.get_command(app)
        while hasattr(command, "commands") and words:
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_index_lists_every_page_once() -> None:
    rows = re.findall(r"^\| \[[^\]]+\]\(([^)]+)\) \| [A-Z].*\. \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [page.name for page in PAGES if page.name != "README.md"]


def test_every_picture_is_shown() -> None:
    shown = set(re.findall(r"images/mathematics/([\w-]+\.png)", "".join(page.read_text() for page in PAGES)))
    assert shown == {picture.name for picture in (FOLDER.parent / "images" / "mathematics").iterdir()}
