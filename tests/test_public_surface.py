"""What `import clearwater` offers."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import clearwater

_MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(clearwater.__path__, "clearwater.")
    if not module.name.endswith("__main__")
)


def _rank(name: str) -> tuple[int, str]:
    """The order of ruff's RUF022: constants, classes, the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _homes() -> dict[str, str]:
    """Name to module, as the type checker reads them."""
    tree = ast.parse(Path(inspect.getfile(clearwater)).read_text())
    return {
        name.name: statement.module or ""
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
    }


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert clearwater.__all__ == sorted(set(clearwater.__all__), key=_rank)


def test_every_public_name_is_typed_and_lazy_alike() -> None:
    assert set(_homes()) == set(clearwater.__all__)


def test_every_public_name_is_the_object_of_its_home_however_often_it_is_asked_for() -> None:
    for module in _MODULES:
        import_module(module)
    for name, home in _homes().items():
        expected = vars(import_module(home))[name]
        assert getattr(clearwater, name) is expected, name
        assert getattr(clearwater, name) is expected, name


def test_dir_lists_the_public_names() -> None:
    assert dir(clearwater) == sorted([*clearwater.__all__, "__version__"])


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'scheduler'"):
        clearwater.scheduler  # noqa: B018


@pytest.mark.parametrize("module", _MODULES)
def test_every_name_in_a_modules_all_is_there_and_public(module: str) -> None:
    found = import_module(module)
    names = getattr(found, "__all__", [])
    assert [name for name in names if not hasattr(found, name) or name.startswith("_")] == []
    assert names == sorted(set(names), key=_rank)


def test_the_library_and_the_help_of_every_command_do_without_torch() -> None:
    script = """
import sys
import clearwater
clearwater.__version__, dir(clearwater)
from clearwater.cli import app, run
from clearwater.cli.show import app as show
commands = [[], ["show"], *([command.name] for command in app.registered_commands)]
commands += [["show", command.name or command.callback.__name__] for command in show.registered_commands]
codes = [run([*command, "--help"]) for command in commands] + [run(["--version"])]
heavy = {"torch", "numpy", "matplotlib", "PIL", "safetensors"} & set(sys.modules)
print("codes", set(codes), "heavy", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "codes {0} heavy []"
    assert f"clearwater {clearwater.__version__}" in done.stdout.splitlines()


def test_python_m_clearwater_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "clearwater", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"clearwater {clearwater.__version__}\n", "")
