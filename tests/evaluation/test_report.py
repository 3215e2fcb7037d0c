"""The report of a run: its words, and that a browser needs nothing else for it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from reports import Element, chart_of, entries_of, parsed, run_of, tiles, told

from clearwater.config import Config, DataConfig
from clearwater.evaluation.report import report_page, write_report
from clearwater.settings import resolve
from clearwater.training import RunFolder

# The words


def test_the_head_says_what_was_trained_on_and_how_far_it_is(page: Callable[..., Element]) -> None:
    root = page(entries_of(5), "training.steps=200", "training.batch=32")
    assert root.all("h1")[0].text == "run"
    assert "Trained on fashion-mini: 8 × 8, grey." in root.all("header")[0].text
    assert tiles(root) == {
        "Steps": "50 of 200",
        "Images seen": "1,600",
        "Training time": "2 s",
        "Speed, last report": "228 images/s",
        "Loss": "0.404 mean of 1",
    }
    assert "25% of the way." in root.all("header")[0].text
    assert "No checkpoint yet." in root.all("header")[0].text
    (bar,) = root.all("div", "bar-of-progress")
    assert (bar.attributes["aria-valuenow"], bar.all("i")[0].attributes["style"]) == ("25", "width:25.0%")


def test_a_run_of_minutes_is_measured_in_time(page: Callable[..., Element]) -> None:
    entries = [{"step": 10, "seconds": 5400.0, "loss": 1.0}]
    root = page(entries, "training.minutes=360")
    assert "25% of the way." in root.all("header")[0].text
    assert tiles(root)["Training time"] == "1.5 of 6 h"


def test_a_run_is_as_far_as_it_says_itself(page: Callable[..., Element]) -> None:
    # Of its minutes it keeps some back for what comes after the last step.
    entries: list[dict[str, object]] = [{"step": 10, "seconds": 57.5, "loss": 1.0, "fraction": 1.0}]
    assert "Finished." in page(entries, "training.minutes=1").all("header")[0].text
    entries.append({"step": 11, "seconds": 90.0, "loss": 1.0})  # gone on with to another end, by a version that is mute
    assert "75% of the way." in page(entries, "training.minutes=2").all("header")[0].text


def test_a_finished_run_says_so_as_its_checkpoint_does(trained: Path) -> None:
    root = parsed(report_page(RunFolder.open(trained)))
    head = root.all("header")[0].text
    assert "Finished." in head
    assert "Last checkpoint after step 8." in head
    assert tiles(root)["Steps"] == "8 of 8"
    assert tiles(root)["Images seen"] == "32"
    assert root.all("h1")[0].text == "run"


def test_the_settings_are_all_there_and_those_that_differ_are_marked(
    page: Callable[..., Element], tiny: Callable[..., Config]
) -> None:
    root = page(None)
    rows: dict[str, Element] = {}
    for table in root.all("table"):
        section = table.all("caption")[0].text
        rows |= {f"{section}.{row.all('th')[0].text}": row for row in table.all("tr")}
    schema = {
        f"{section}.{name}"
        for section, holder in Config.model_fields.items()
        for name in type(holder.default).model_fields
    }
    assert set(rows) == schema
    marked = {name for name, row in rows.items() if row.attributes.get("class") == "changed"}
    assert marked == {difference.split(" ")[0] for difference in tiny().differences(Config())}
    assert rows["chain.levels"].all("td")[0].text == "10default: 1000"
    assert rows["data.size"].all("td")[0].text == "[8, 8]default: unset"
    assert rows["training.microbatch"].all("td")[0].text == "unset"


def _commands(root: Element) -> list[list[str]]:
    return [shlex.split(command.text) for command in root.all("dl", "commands")[0].all("pre")]


def test_the_commands_are_of_this_run(tiny: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "it's a <b>run</b> & $(more)"
    config = tiny()
    source = str(tmp_path / "pictures of 'cats'")
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
    run = run_of(folder, config, entries_of(3))
    go_on = ["clearwater", "train", source, "--out", str(folder), "--config", str(folder / "config.toml")]
    sample = ["clearwater", "sample", str(folder), "--out", str(folder / "samples")]
    measure = ["clearwater", "bound", str(folder), source, "--variance", "optimal"]
    assert _commands(parsed(report_page(run))) == [[*go_on, "--steps", "16"], sample, measure]  # 30 steps of 8

    (folder / "averages").mkdir()
    (folder / "averages" / "000000010.safetensors").touch()
    (folder / "log.jsonl").unlink()
    assert _commands(parsed(report_page(run))) == [go_on, sample, measure, ["clearwater", "ema", str(folder)]]


def test_each_figure_has_the_command_that_makes_it_again(
    tiny: Callable[..., Config], trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "a run", ignore=shutil.ignore_patterns("measured"))

    def hows() -> list[list[str]]:
        page = parsed(report_page(RunFolder.open(folder)))
        return [shlex.split(each.text)[1:] for how in page.all("details", "how") for each in how.all("pre")]

    samples = ["sample", str(folder), "--out", str(folder / "samples"), "--n", "16"]
    into = ["show", "forward", str(folder), "--out", "forward.png", "--n", "4"]
    out_of = ["show", "reverse", str(folder), "--out", "reverse.png", "--n", "4", "--sampler", "unipc"]
    train = ["train", "fashion-mini", "--out", f"{folder}-again", "--config", str(folder / "config.toml")]
    expected = [samples, ["report", str(folder)], into, [*out_of, "--levels", "10"], train]
    assert [words[: len(known)] for words, known in zip(hows(), expected, strict=True)] == expected

    config = RunFolder.open(folder).config()
    data = config.data.model_copy(update={"labels": True, "classes": ("a", "b")})
    (folder / "config.toml").write_text(config.model_copy(update={"data": data}).to_toml())
    assert [words[-2:] for words in hows() if "--n" in words and "forward" not in words] == [["--classes", "all"]] * 2


def test_the_command_to_go_on_names_the_recipe_that_decides_on_what_the_file_leaves_unset(tmp_path: Path) -> None:
    config = resolve(recipe="ddpm-cifar10", sets=("data.size=8", "data.channels=1"))
    assert config.model.group_size is None  # which the recipe small-grey sets
    go_on = _commands(parsed(report_page(run_of(tmp_path / "run", config))))[0]
    assert go_on[-2:] == ["--recipe", "ddpm-cifar10"]
    assert resolve(recipe=go_on[-1], file=Path(go_on[go_on.index("--config") + 1])) == config


def test_the_command_to_go_on_names_the_run_that_was_started_from(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(f"training.start={tmp_path / 'first'}")
    go_on = _commands(parsed(report_page(run_of(tmp_path / "run", config))))[0]
    assert go_on[-2:] == ["--from", str(tmp_path / "first")]


def test_skipped_files_are_named(page: Callable[..., Element], tmp_path: Path) -> None:
    names = [f"picture-{i}.png (truncated)" for i in range(60)]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(Config(data=DataConfig(size=(8, 8), channels=1)).to_toml())
    (folder / "skipped.txt").write_text("\n".join([*names, ""]))
    root = parsed(report_page(RunFolder.open(folder)))
    items = [item.text for item in root.all("ul")[0].all("li")]
    assert items == [*names[:50], "… and 10 more, in skipped.txt"]
    assert "60 broken files" in root.text


# What may go wrong


def test_a_run_that_has_only_begun_has_a_page(page: Callable[..., Element]) -> None:
    for entries in (None, []):
        root = page(entries)
        assert "Nothing was logged yet." in root.text
        assert "No samples were drawn" in root.text
        assert "0% of the way." in root.text
        assert tiles(root) == {"Steps": "0 of 8", "Images seen": "0", "Training time": "0 s"}


def test_a_torn_log_is_shown_as_far_as_it_goes(page: Callable[..., Element], tmp_path: Path) -> None:
    entries = entries_of(6)
    page(entries)
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(b'{"step": 5, "lo\n' + log.read_bytes() + b'{"step": 70, "loss": 0.\x00\xff')
    (line,) = chart_of(page(None), "Loss").all("path", "line")
    assert [step for step, _ in told(line)] == [10, 20, 30, 40, 50, 60]


_HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'"


def test_names_are_text_whatever_is_in_them(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    data = config.data.model_copy(update={"source": _HOSTILE, "labels": True, "classes": (_HOSTILE, "</style>")})
    entries = entries_of(3)
    entries[1] |= {"unseen_loss": 0.5, "unseen_images": _HOSTILE}
    folder = tmp_path / _HOSTILE.replace("/", "⁄")
    run = run_of(folder, config.model_copy(update={"data": data}), entries)
    (folder / "skipped.txt").write_text(f"{_HOSTILE}\n")
    root = parsed(report_page(run))
    assert (len(root.all("script")), len(root.all("style")), len(root.all("img"))) == (1, 1, 0)
    assert not [name for element in root.walk() for name in element.attributes if name.startswith("on")]
    assert root.all("h1")[0].text == folder.name
    assert f"Trained on {_HOSTILE}: 8 × 8, grey, 2 classes." in root.all("header")[0].text
    assert _HOSTILE in [item.text for item in root.all("ul")[0].all("li")]
    assert json.dumps([_HOSTILE, "</style>"]) in root.all("table")[0].text


def test_a_name_that_is_no_text_is_written_as_far_as_it_is(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = run_of(tmp_path / b"caf\xe9".decode(errors="surrogateescape"), tiny(), entries_of(2))
    (run.path / "skipped.txt").write_bytes(b"caf\xe9.png\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert "<h1>caf?</h1>" in text
    assert "<li>caf\N{REPLACEMENT CHARACTER}.png</li>" in text


def test_a_list_of_a_thousand_classes_is_cut(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    data = config.data.model_copy(update={"classes": tuple(f"class {i}" for i in range(1000))})
    root = parsed(report_page(run_of(tmp_path / "run", config.model_copy(update={"data": data}))))
    assert "… (1,000 in all)" in root.text
    assert "class 999" not in root.text


def test_a_browser_needs_nothing_else(trained: Path) -> None:
    text = report_page(RunFolder.open(trained))
    root = parsed(text)
    assert not re.search(r"https?:|@import|url\(|//\w", re.sub(r'"data:image/[^"]*"', "", text))
    assert not root.all("link")
    assert not [element for element in root.walk() if "href" in element.attributes]
    assert all(element.attributes.get("src", "data:").startswith("data:") for element in root.walk())
    (policy,) = (each for each in root.all("meta") if each.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert root.all("html")[0].attributes["lang"] == "en"
    assert len(root.all("h1")) == 1


# The file


def test_the_report_is_written_whole_beside_nothing_else(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny(), entries_of(3))
    assert write_report(run) == tmp_path / "run" / "report.html"
    first = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    run.log({"step": 1000, "loss": 0.125})
    write_report(run)
    second = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "1000,0.125" not in first
    assert "1000,0.125" in second
    assert {path.name for path in run.path.iterdir()} == {"config.toml", "log.jsonl", "report.html"}
    assert write_report(run, tmp_path / "elsewhere.html") == tmp_path / "elsewhere.html"
    assert (tmp_path / "elsewhere.html").read_text(encoding="utf-8") == second


def test_one_checkpoint_of_a_run_has_a_page(trained: Path, tmp_path: Path) -> None:
    (checkpoint,) = (trained / "checkpoints").iterdir()
    root = parsed(write_report(RunFolder.open(checkpoint), tmp_path / "one.html").read_text(encoding="utf-8"))
    assert tiles(root)["Steps"] == "8 of 8"
    assert "Nothing was logged yet." in root.text
