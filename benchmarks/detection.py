"""What a score costs, side by side in one run: the detector, one full pass, and the local dimension (FLIPD).

    make bench-detection                        about four minutes on two idle cores
    python benchmarks/detection.py --rounds 3   quicker and rougher

U-Nets of the book's sizes with random weights, since time does not depend on them; one thread, so that ratios are of
the arithmetic and not of how well each fills two cores. Rivals take turns, round after round. The exact trace takes d
products with the Jacobian: it is timed in full on digits, and elsewhere by the slope over sixteen probes.
"""

import argparse
import json
import platform
from functools import partial

import torch
from speed import race, ratio
from torch import nn

from spikiness.denoisers import EDM
from spikiness.detection import BASELINES, Detector
from spikiness.networks import UNet

MODELS = {
    "digits, 8 x 8": ((1, 8, 16), {}),
    "MNIST, 28 x 28": ((1, 28, 32), {"patch": 2}),
    "CIFAR-10, 32 x 32 x 3": ((3, 32, 32), {"patch": 2}),
}
CHOSEN = "network.middle.act2"  # what calibration chose on digits; the paper's layer is the default
SIGMA = 0.1


def model(sizes: tuple[int, int, int], options: dict) -> EDM:
    generator = torch.Generator().manual_seed(0)
    network = UNet(*sizes, generator=generator, **options)
    for weight in network.parameters():  # fresh networks end in zeros
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.05, generator=generator)
    return EDM(network, 0.5).requires_grad_(False).eval()


def measure(name: str, batch: int, rounds: int) -> dict[str, object]:
    denoiser, d = model(*MODELS[name]), MODELS[name][0][0] * MODELS[name][0][1] ** 2
    x = 2 * torch.rand(batch, MODELS[name][0][0], *[MODELS[name][0][1]] * 2) - 1
    flipd = partial(BASELINES["FLIPD"].make, denoiser, SIGMA)
    rivals = {
        "full pass": torch.no_grad()(lambda: denoiser(x, SIGMA)),
        "detector, middle": partial(Detector(denoiser, CHOSEN, SIGMA).score, x),
        "detector, paper": partial(Detector(denoiser, sigma=SIGMA).score, x),
        "FLIPD, 1 probe": partial(flipd(probes=1).score, x),
        "FLIPD, 17 probes": partial(flipd(probes=17).score, x),
    }
    if d <= 64:
        rivals["FLIPD, exact"] = partial(BASELINES["FLIPD exact"].make(denoiser, SIGMA).score, x)
    times = race(rivals, rounds)
    if d > 64:
        times["FLIPD, exact"] = (
            times["FLIPD, 1 probe"] + (d - 1) * (times["FLIPD, 17 probes"] - times["FLIPD, 1 probe"]) / 16
        )
    found: dict[str, object] = {
        f"{rival}, ms per image": round(1000 * float(t.mean()) / batch, 4) for rival, t in times.items()
    }
    for ours in ("detector, middle", "detector, paper"):
        for rival in ("full pass", "FLIPD, 1 probe", "FLIPD, exact"):
            found[f"{ours}: cheaper than {rival} by"] = ratio(times[rival], times[ours])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"machine": platform.machine(), "torch": torch.__version__, "threads": 1}))
    for name in MODELS:
        for batch in options.batches:
            print(json.dumps({name: measure(name, batch, options.rounds), "batch": batch}, indent=1), flush=True)


if __name__ == "__main__":
    main()
