"""The process of a peer in the race: trains it, or samples from it. It needs torch, numpy and the peer's own package.

python peer.py train SIDE --images FILE.npy --out LEG --minutes 2 --began SECONDS --seed 0
python peer.py sample SIDE --images FILE.npy --out LEG --n 2000 --evaluations 20 --seed 0 --samples FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # of machine.py

import numpy as np
import torch
from peers import Clock, Images, Peer
from sides import SIDES

_BATCH = 100


def peer_of(side: str) -> Peer:
    """The peer of this name, whose package is imported now."""
    peer: Peer = importlib.import_module(SIDES[side].module).PEERS[side]
    return peer


def train(options: argparse.Namespace) -> None:
    """Trains, and says what came of it in LEG/trained.json."""
    peer = peer_of(options.side)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    trained = peer.train(Images(options.images), Clock(options.began, options.minutes), options.out)
    (options.out / "trained.json").write_text(json.dumps({**asdict(trained), "torch": torch.__version__}))


def sample(options: argparse.Namespace) -> None:
    """Samples into samples.npz, as `clearwater sample --npz` does: images, uint8, (N, H, W, C)."""
    peer = peer_of(options.side)
    shape = Images(options.images).shape
    network = peer.load(options.out, shape).eval()
    calls: list[int] = []
    network.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    torch.manual_seed(options.seed)
    make = peer.sampler(network, shape, options.evaluations)
    made = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=peer.bf16):
        for first in range(0, options.n, _BATCH):
            x = make(min(_BATCH, options.n - first)).float()
            made.append(x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    options.samples.mkdir(parents=True, exist_ok=True)
    np.savez(options.samples / "samples.npz", images=np.concatenate(made))
    (options.samples / "sampled.json").write_text(json.dumps({"evaluations": sum(calls) / options.n}))


def main() -> None:
    """Reads the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["train", "sample"])
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--began", type=float)
    parser.add_argument("--n", type=int)
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--samples", type=Path)
    options = parser.parse_args()
    (train if options.work == "train" else sample)(options)


if __name__ == "__main__":
    main()
