"""What has to hold on a GPU too. `pytest -m gpu` on a machine that has one."""

import pytest
import torch

from clearwater import (
    DDIM,
    Ancestral,
    Clipped,
    DPMSolver,
    FixedSmall,
    NetworkDenoiser,
    Stepper,
    UNet,
    UniPC,
    V,
    chain,
    load_images,
    sample,
    sampling_states,
)
from clearwater.assembly import pick_autocast, pick_device
from clearwater.randomness import ImageNoise
from clearwater.settings import resolve
from clearwater.training import Progress, Stopped, Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _network() -> UNet:
    torch.manual_seed(0)
    network = UNet(1, 32, (1, 2), 1, (1,), group_size=16, patch=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def test_auto_takes_the_gpu_and_bf16() -> None:
    device = pick_device("auto")
    assert device.type == "cuda"
    assert pick_autocast("auto", device) == torch.bfloat16


def test_the_network_says_the_same_as_on_a_processor() -> None:
    x, time = torch.randn(4, 1, 28, 28), torch.rand(4)
    network = _network()
    there = network(x, time)
    here = network.place(torch.device("cuda"))(x.cuda(), time.cuda()).cpu()
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


def test_noise_does_not_depend_on_the_device() -> None:
    noises = [ImageNoise(3, [5, 7], (1, 8, 8), device)().cpu() for device in ("cpu", "cuda")]
    assert torch.equal(*noises)


def test_a_sample_is_the_same_image_as_on_a_processor() -> None:
    network, levels = _network(), chain("cosine")
    images = {}
    for device in ("cpu", "cuda"):
        network.place(torch.device(device))
        denoiser = Clipped(NetworkDenoiser(network, levels, V(), FixedSmall()))
        images[device] = sample(denoiser, 3, (1, 28, 28), chain=levels.strided(10), device=device).cpu()
    torch.testing.assert_close(images["cuda"], images["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_what_it_learns_on_a_processor(precision: str) -> None:
    settings = resolve(
        recipe="small-grey",
        sets=["data.channels=1", "data.size=28", "training.steps=60", f"training.precision={precision}"],
    )
    data = load_images("fashion-mini")
    losses = {}
    for device in ("cpu", "cuda"):
        events = list(Trainer(settings, data, torch.device(device)))
        assert isinstance(events[-1], Stopped)
        losses[device] = [event.loss for event in events if isinstance(event, Progress)][-1]
    # The noise differs by device, so the losses agree as two draws of the same training do.
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.5)
    assert losses["cuda"] < 0.3  # it starts at about 1.5


@pytest.mark.parametrize(
    "stepper", [Ancestral(), DDIM(), UniPC(), DPMSolver(2)], ids=lambda stepper: type(stepper).__name__
)
def test_sampling_never_waits_for_the_gpu(stepper: Stepper) -> None:
    network, levels = _network().place(torch.device("cuda")), chain("cosine")
    denoiser = Clipped(NetworkDenoiser(network, levels, V(), FixedSmall()))
    noise = ImageNoise(0, range(4), (1, 28, 28), "cuda")
    with torch.inference_mode():
        network(noise(), torch.rand(4, device="cuda"))  # the libraries' own first steps may wait
    states = sampling_states(denoiser, noise, levels.strided(10), stepper)
    next(states)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = sum(1 for _ in states)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == 10
