"""The README's first example runs, and does what it says."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_is_at_most_20_lines_and_makes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    code = block[1]
    assert len(code.strip().splitlines()) <= 20
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    samples, x_500 = names["samples"], names["x_500"]
    assert isinstance(samples, torch.Tensor)
    assert isinstance(x_500, torch.Tensor)
    # Level 500 of the cosine chain: nearly as much signal as noise, so a black picture has variance σ² ≈ ½.
    assert 0.4 < float(x_500.var()) < 0.8
    # 100 steps teach it at least that garments stand before black: the corners are darker than the middle.
    assert samples.shape == (4, 1, 28, 28)
    assert (tmp_path / "samples.png").is_file()
    assert float(samples[..., :3, :3].mean()) < -0.5  # black is -1, grey is 0
    assert float(samples[..., 8:20, 10:18].mean()) > float(samples[..., :3, :3].mean()) + 0.3
