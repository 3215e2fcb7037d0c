"""The dictionary of docs/mathematics/flows.md: each row is held to its paper, whose formulas are written here anew."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from clearwater import chains, learned_chain, schedules, targets, times, variances, weights

PAGE = Path(__file__).parents[1] / "docs" / "mathematics" / "flows.md"
DRAWS = 20_000
NAMES = {
    name: value
    for module in (chains, learned_chain, schedules, targets, times, variances, weights)
    for name, value in vars(module).items()
    if name in module.__all__
}


@dataclass
class Row:
    """A row of the page, as the objects that it names."""

    levels: object
    target: object
    weight: object
    times: object

    @property
    def log_snr(self):
        return self.levels.levels.log_snr[1:].detach().numpy()

    @property
    def on_eps(self):
        """The weight on the squared error of eps at the levels 1..T."""
        t = self.levels.levels[1:]
        *_, det = self.target.system(t)
        return (self.weight(self.target, t) * (det / t.alpha).square()).detach().numpy()

    def drawn(self):
        """Levels that are drawn for training, all of one weight."""
        k, weight = self.times(DRAWS, self.levels.T, torch.Generator().manual_seed(0))
        assert bool((weight == 1).all())
        return k.numpy()


def rows():
    """The rows of the dictionary by the name of the method, their code as text."""
    table = PAGE.read_text().partition("## The dictionary")[2]
    found = re.findall(r"^\| ([^|`]+) \| `(.+?)` \| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\| (?!method|---)", table, re.MULTILINE)), "a row could not be read"
    return {name: code for name, *code in found}


def made(name):
    levels, *others = rows()[name]
    known = {**NAMES, "levels": eval(levels, dict(NAMES))}
    return Row(known["levels"], *(eval(code, dict(known)) for code in others))


@dataclass
class Paper:
    """What a paper says, in its own terms.

    Attributes:
        log_snr: of the levels 1..T; NaN where the paper leaves it open.
        on_eps: the weight on the squared error of eps, up to one factor, as a function of log_snr.
        law: of what is drawn, and `of_level` what that is at our level k.
        used: the levels at which `on_eps` is compared: not at pure noise, where no error of eps means anything.
        rtol: of that.
    """

    log_snr: object
    on_eps: object
    law: object = field(default_factory=stats.uniform)
    of_level: object = None
    used: slice = field(default_factory=lambda: slice(None))
    rtol: float = 1e-6

    def drawn(self, k, T):
        return (k - 0.5) / T if self.of_level is None else self.of_level(k)


def of_betas(beta):
    alpha_bar = np.cumprod(1 - beta)
    return np.log(alpha_bar / (1 - alpha_bar))


def nichol_dhariwal(T):
    """Eq. 17: alpha_bar = f(t) / f(0), beta at most 0.999."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return of_betas(np.minimum(1 - f[1:] / f[:-1], 0.999))


T = 1000
TIME = np.arange(1, T + 1) / T
INTEGRAL = 0.1 * TIME + 0.5 * (20 - 0.1) * TIME**2  # of beta(t), Song et al. 2021, eq. 33
RATE = 0.1 + (20 - 0.1) * TIME
LINEAR = of_betas(np.linspace(1e-4, 0.02, T))
VP = -np.log(np.expm1(INTEGRAL))
with np.errstate(divide="ignore"):
    CIRCLE = 2 * np.log(np.sin(math.pi / 2 * (1 - TIME)) / np.sin(math.pi / 2 * TIME))
    STRAIGHT = 2 * np.log((1 - TIME) / TIME)
# Karras et al. 2022, eq. 5, from the smallest sigma up, the lowest of T + 1 left out for data.
GRID = (0.002 ** (1 / 7) + TIME * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
KEPT = 1 - (1 - 1e-5) * (1 - TIME)  # Lipman et al. 2022, eq. 20: the standard deviation, at their time 1 - t
with np.errstate(divide="ignore"):
    TRANSPORT = 2 * np.log((1 - TIME) / KEPT)
    INTERPOLANT = 2 * np.log((1 - TIME) / np.sqrt(TIME**2 + 2 * TIME * (1 - TIME)))
NOISY = slice(0, -1)


def snr(log_snr):
    return np.exp(log_snr)


def learned_bound(log_snr):
    """Expm1(gamma_t - gamma_s) with gamma = -log_snr (Kingma et al. 2021, eq. 14); level 1 is the decoder's."""
    return np.expm1(-np.diff(log_snr, prepend=np.nan))


def of_x_1(square_of_coefficient):
    """A velocity that is linear in x_t and x_1, the data: its error is that of x_1, which is √(1/snr) times eps's."""
    return lambda log_snr: square_of_coefficient / snr(log_snr)


PAPERS = {
    # Eq. 14: the mean over t of ‖eps - eps_θ‖².
    "DDPM (Ho et al. 2020)": Paper(LINEAR, np.ones_like),
    # L_simple is the part of L_hybrid that trains the mean.
    "improved DDPM (Nichol & Dhariwal 2021), L_simple": Paper(nichol_dhariwal(4000), np.ones_like),
    # Eq. 7 with weight sigma² on the score, whose error is 1 / sigma times that of eps.
    "score SDE, VP (Song et al. 2021)": Paper(VP, np.ones_like),
    # Appendix F: gamma begins at -13.3 and ends at 5.
    "VDM (Kingma et al. 2021)": Paper(
        np.array([13.3, *[np.nan] * (T - 2), -5.0]), learned_bound, used=slice(1, None), rtol=1e-5
    ),
    # Section 4 and appendix D: cos(πt/2), and weight snr + 1 on x_0, whose error is √(1/snr) that of eps.
    "v-prediction (Salimans & Ho 2022)": Paper(CIRCLE, lambda log_snr: (snr(log_snr) + 1) / snr(log_snr), used=NOISY),
    # Table 1: (sigma² + sigma_data²) / (sigma sigma_data)² on D, whose error is sigma times that of eps; log sigma is
    # normal.
    "EDM (Karras et al. 2022)": Paper(
        -2 * np.log(GRID),
        lambda _: (GRID**2 + 0.5**2) / (GRID * 0.5) ** 2 * GRID**2,
        law=stats.norm(-1.2, 1.2),
        of_level=lambda k: np.log(GRID[k - 1]),
    ),
    # Eq. 8: L_simple's weight over (k + snr)^gamma.
    "P2 (Choi et al. 2022)": Paper(LINEAR, lambda log_snr: 1 / (1 + snr(log_snr))),
    # min(snr, 5) on x_0.
    "min-SNR (Hang et al. 2023)": Paper(
        nichol_dhariwal(1000), lambda log_snr: np.minimum(snr(log_snr), 5) / snr(log_snr)
    ),
    # ∫ sigmoid(b - log_snr) ‖eps - eps_θ‖² d log_snr, with |d log_snr / dt| = 2π / sin(πt), here at the steps' middles.
    "sigmoid weight (Kingma & Gao 2023)": Paper(
        CIRCLE,
        lambda log_snr: 1 / (1 + np.exp(log_snr - 2)) * 2 * math.pi / np.sin(math.pi * (TIME - 0.5 / T)),
        used=slice(20, -20),
        rtol=1e-3,
    ),
    # Eq. 19, at their time 1 - t: what multiplies x_1 is ½ T' e^(-T/2) / (1 - e^-T), T the integral of beta.
    "flow matching, VP path (Lipman et al. 2022)": Paper(
        VP, of_x_1((0.5 * RATE * np.exp(-INTEGRAL / 2) / (1 - np.exp(-INTEGRAL))) ** 2)
    ),
    # Eq. 21: u = (x_1 - (1 - sigma_min) x) / (1 - (1 - sigma_min) (their t)).
    "flow matching, OT path (Lipman et al. 2022)": Paper(TRANSPORT, of_x_1(KEPT**-2), used=NOISY),
    # Eq. 1: X_1 - X_0 at X_t = t X_1 + (1 - t) X_0; given X_t it is (X_1 - X_t) / (1 - their t).
    "rectified flow (Liu et al. 2022)": Paper(STRAIGHT, of_x_1(TIME**-2.0), used=NOISY),
    # -x_0 + d/dt √(t² + 2t(1 - t)) · eps, with x_0 = (x_t - sigma eps) / (1 - t) put in.
    "stochastic interpolant (Albergo et al. 2023)": Paper(
        INTERPOLANT,
        lambda _: (np.sqrt(2 * TIME - TIME**2) / (1 - TIME + 1e-300) + (1 - TIME) / np.sqrt(2 * TIME - TIME**2)) ** 2,
        used=NOISY,
    ),
    # Section 3.1: -½ w λ' on eps with w = t / (1 - t), λ' = -2 / (t (1 - t)), and logit(t) standard normal.
    "SD3 (Esser et al. 2024)": Paper(
        STRAIGHT,
        lambda _: TIME / (1 - TIME + 1e-300) / (TIME * (1 - TIME + 1e-300)),
        law=stats.norm(),
        of_level=lambda k: np.log((k - 0.5) / (T - k + 0.5)),
        used=NOISY,
    ),
}
every_row = pytest.mark.parametrize("name", PAPERS)


def test_every_row_of_the_page_is_held_to_its_paper():
    assert list(rows()) == list(PAPERS)


@every_row
def test_the_levels_have_the_log_snr_of_the_paper(name):
    ours, paper = made(name).log_snr, PAPERS[name].log_snr
    assert len(ours) == len(paper)
    said = ~np.isnan(paper)
    np.testing.assert_allclose(ours[said], paper[said], rtol=1e-6, atol=1e-6)


@every_row
def test_the_weight_on_eps_is_that_of_the_paper_as_a_function_of_the_log_snr(name):
    row, paper = made(name), PAPERS[name]
    with np.errstate(all="ignore"):
        ours, theirs = row.on_eps[paper.used], paper.on_eps(row.log_snr)[paper.used]
    middle = len(ours) // 2  # up to one factor
    np.testing.assert_allclose(ours / ours[middle], theirs / theirs[middle], rtol=paper.rtol)


@every_row
def test_levels_are_drawn_from_the_law_of_the_paper(name):
    """By Kolmogorov and Smirnov's statistic, at p = 1e-6, and what the steps between the levels add."""
    row, paper = made(name), PAPERS[name]
    distance = stats.kstest(paper.drawn(row.drawn(), row.levels.T), paper.law.cdf).statistic
    assert distance < 2.7 / math.sqrt(DRAWS) + 0.006
