"""The energy meter, on counters that count what the test says."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from clearwater.training.energy import EnergyMeter, NvidiaCounter, counters_of

CPU = torch.device("cpu")


def _counter(powercap: Path, folder: str, name: str, joules: float, most: float = 262_143.0) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")
    _count(path, joules)
    return path


def _count(path: Path, joules: float) -> None:
    (path / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")


def test_packages_and_memory_are_added_up_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    package = _counter(tmp_path, "intel-rapl:0", "package-0", 100)
    other = _counter(tmp_path, "intel-rapl:1", "package-1", 7)
    memory = _counter(tmp_path, "intel-rapl:0:1", "dram", 50)
    # Cores are part of their package, psys is the whole machine, and mmio is another way to the same counter.
    again = [
        _counter(tmp_path, "intel-rapl:0:0", "core", 1),
        _counter(tmp_path, "intel-rapl:2", "psys", 1),
        _counter(tmp_path, "intel-rapl-mmio:0", "package-0", 1),
    ]
    meter = EnergyMeter(counters_of(CPU, tmp_path))
    assert meter.of == ("processors", "memory")
    assert meter.joules() == 0
    for path, joules in ((package, 130), (other, 9.5), (memory, 51), *((path, 1000) for path in again)):
        _count(path, joules)
    assert meter.joules() == pytest.approx(30 + 2.5 + 1)
    assert meter.joules() == pytest.approx(30 + 2.5 + 1)
    _count(memory, 52)
    assert meter.joules() == pytest.approx(30 + 2.5 + 2)


def test_a_counter_that_begins_anew_is_counted_on(tmp_path: Path) -> None:
    package = _counter(tmp_path, "intel-rapl:0", "package-0", 990, most=1000)
    meter = EnergyMeter(counters_of(CPU, tmp_path))
    for joules, expected in ((995, 5), (3, 13), (999, 1009), (0, 1010)):
        _count(package, joules)
        assert meter.joules() == pytest.approx(expected)


def test_a_machine_that_tells_nothing_has_no_figure(tmp_path: Path) -> None:
    assert EnergyMeter(counters_of(CPU, tmp_path / "none")).joules() is None
    path = _counter(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").write_text("")  # or, more often, one that only root may read
    meter = EnergyMeter(counters_of(CPU, tmp_path))
    assert (meter.of, meter.joules()) == ((), None)
    (path / "max_energy_range_uj").unlink()
    assert counters_of(CPU, tmp_path) == []


def test_a_counter_that_is_lost_leaves_no_figure_for_a_part(tmp_path: Path) -> None:
    _counter(tmp_path, "intel-rapl:0", "package-0", 1)
    lost = _counter(tmp_path, "intel-rapl:0:1", "dram", 1)
    meter = EnergyMeter(counters_of(CPU, tmp_path))
    (lost / "energy_uj").unlink()
    assert meter.joules() is None
    _count(lost, 5)
    assert meter.joules() is None


class _Driver:
    """NVIDIA's library for one GPU that has used as many millijoules as it is told."""

    def __init__(self, uuid: bytes) -> None:
        self.uuid, self.millijoules = uuid, 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: object) -> int:
        device._obj.value = 42  # type: ignore[attr-defined]
        return 0 if uuid == self.uuid else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, counted: object) -> int:
        assert device.value == 42
        counted._obj.value = self.millijoules  # type: ignore[attr-defined]
        return 0


def test_a_gpu_is_asked_through_its_driver() -> None:
    driver = _Driver(b"GPU-1")
    driver.millijoules = 2**40
    meter = EnergyMeter([NvidiaCounter("GPU-1", driver)])  # type: ignore[arg-type]
    driver.millijoules += 1500
    assert (meter.of, meter.joules()) == (("GPU",), pytest.approx(1.5))
    with pytest.raises(OSError, match="nvmlDeviceGetHandleByUUID gave 6"):
        NvidiaCounter("GPU-2", driver)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_uses_energy_or_says_nothing() -> None:
    device = torch.device("cuda", 0)
    meter = EnergyMeter([each for each in counters_of(device) if each.of == "GPU"])
    a = torch.randn(4096, 4096, device=device)
    for _ in range(200):
        a = torch.nn.functional.normalize(a @ a)
    torch.cuda.synchronize()
    joules = meter.joules()
    assert joules is None or 0 < joules < 100_000
