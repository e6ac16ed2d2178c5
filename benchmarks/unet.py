"""Diffusion models side by side in one run: our U-Net in our loop, smalldiffusion's and diffusers' in a plain one.

    make bench-unet                              training and sampling speed, about 5 minutes on two idle cores
    python benchmarks/unet.py --memorize         also the time until 20 digits are memorized, about 15 minutes more

All three have 32 channels, multipliers 1-2-2 and one block per level, without attention on the levels (smalldiffusion's
keeps its one attention block in the middle: it cannot be switched off). The plain loop is what most people would write:
the same EDM loss, Adam as it comes. Ours does more: it clips gradients, averages weights and checks every loss. Rivals
take turns, round after round. FLOPs are counted by torch (two per multiplication and addition) for one training step.
Rivals that are not installed are left out and named: `pip install -e ".[test,bench]"` brings them.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from speed import matmul_rate, race, ratio, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spikiness import images, measures
from spikiness.denoisers import EDM
from spikiness.networks import UNet
from spikiness.sampling import sample
from spikiness.training import LOG_NORMAL, Loop

BATCH = 64
LEVELS = {8: (1, 2), 28: (1, 2, 2), 32: (1, 2, 2)}
REACHED = 0.95  # memorized fraction at which the clock stops
RATES = (2e-3, 5e-3)  # learning rates tried: each network's best, chosen on seed 0


class SmallDiffusion(nn.Module):
    """smalldiffusion's U-Net behind the interface of ours."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        from smalldiffusion import Unet

        self.net = Unet(
            size, channels, channels, ch=width, ch_mult=LEVELS[size], num_res_blocks=1, attn_resolutions=(), dropout=0.0
        )

    def forward(self, x: Tensor, c_noise: Tensor, labels: None = None) -> Tensor:
        return self.net(x, (4 * c_noise).exp().expand(len(x)))  # it embeds the logarithm of sigma itself


class Diffusers(nn.Module):
    """diffusers' UNet2DModel behind the interface of ours."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        levels = LEVELS[size]
        self.net = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=1, norm_num_groups=8,
            block_out_channels=[width * m for m in levels], down_block_types=["DownBlock2D"] * len(levels),
            up_block_types=["UpBlock2D"] * len(levels), add_attention=False,
        )  # fmt: skip

    def forward(self, x: Tensor, c_noise: Tensor, labels: None = None) -> Tensor:
        return self.net(x, 250 * c_noise.expand(len(x))).sample


def plain(x: Tensor, network: nn.Module, lr: float, seed: int, sigma_data: float = 0.5) -> Iterator[EDM]:
    """Endless plain training on x [n, C, H, W]: EDM's loss, Adam as it comes; yields the denoiser after every step."""
    denoiser, generator = EDM(network, sigma_data), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=lr)
    while True:
        clean = x[torch.randint(len(x), (BATCH,), generator=generator)]
        sigma = (LOG_NORMAL[1] + LOG_NORMAL[2] * torch.randn(BATCH, 1, 1, 1, generator=generator)).exp()
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        loss = (denoiser.loss_weight(sigma) * (denoiser(noisy, sigma.flatten()) - clean).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield denoiser


def ours(
    x: Tensor, network: nn.Module, lr: float, seed: int, sigma_data: float = 0.5, steps: int = 10**9
) -> Iterator[nn.Module]:
    """The same by our loop; yields what it trains (with averaged weights on request: `Loop.averaged`)."""
    loop = Loop(x, EDM(network, sigma_data), seed, None, steps * BATCH, BATCH, lr, LOG_NORMAL, 0.0, 1.0, 0.1)
    for _ in loop:
        yield loop.denoiser


def networks() -> dict[str, tuple[Callable[..., nn.Module], Callable[..., Iterator[nn.Module]]]]:
    """Name -> (network, training loop) of everyone who is installed."""
    found = {"ours": (lambda c, s, w: UNet(c, s, w, multipliers=LEVELS[s]), ours)}
    for name, make in (("smalldiffusion", SmallDiffusion), ("diffusers", Diffusers)):
        try:
            make(1, 8, 32)
        except ImportError:
            print(f"{name} is not installed and left out")
        else:
            found[name] = (make, plain)
    return found


def flops_per_image(network: nn.Module, channels: int, size: int) -> float:
    """FLOPs of the forward and backward pass, for one image."""
    x = torch.randn(BATCH, channels, size, size)
    with FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(BATCH)).square().mean().backward()
    return counter.get_total_flops() / BATCH


def take(training: Iterator[object], steps: int) -> None:
    for _ in range(steps):
        next(training)


def training_speed(rounds: int, channels: int, size: int, steps: int = 3) -> dict[str, object]:
    """Images per second, FLOPs per image and GFLOP/s of each, and how many times faster ours is."""
    x, peak = torch.randn(512, channels, size, size), matmul_rate()
    found = networks()
    made = {name: make(channels, size, 32) for name, (make, _) in found.items()}
    flops = {name: flops_per_image(network, channels, size) for name, network in made.items()}
    loops = {name: found[name][1](x, network, 1e-3, 0) for name, network in made.items()}
    times = race({name: partial(take, loop, steps) for name, loop in loops.items()}, rounds)
    report: dict[str, object] = {
        "configuration": f"{channels} x {size} x {size}, 32 channels, batch {BATCH}",
        "peak_gflops": round(peak / 1e9),
    }
    for name, t in times.items():
        rate = steps * BATCH / float(np.median(t))
        report[name] = {
            "images_per_second": round(rate), "parameters": sum(p.numel() for p in made[name].parameters()),
            "mflops_per_image": round(flops[name] / 1e6, 1), "gflops_per_second": round(rate * flops[name] / 1e9, 1),
        }  # fmt: skip
    return report | {f"faster than {name}": ratio(times[name], times["ours"]) for name in times if name != "ours"}


def sampling_speed(rounds: int, channels: int, size: int, count: int = 64) -> dict[str, object]:
    """Samples per second, Heun with 18 steps (35 evaluations), with our sampler around each network."""
    made = {name: EDM(make(channels, size, 32)) for name, (make, _) in networks().items()}
    work = {name: partial(sample, denoiser, (channels, size, size), range(count)) for name, denoiser in made.items()}
    times = race(work, rounds)
    rates = {name: round(count / float(np.median(t)), 1) for name, t in times.items()}
    return {"configuration": f"{channels} x {size} x {size}, {count} samples", "samples_per_second": rates}


def memorized_after(name: str, lr: float, seed: int, limit: float, every: int = 8_000) -> dict[str, float]:
    """Seconds and images until `REACHED` of 200 samples copy one of 20 digits; looking is not on the clock."""
    make, train = networks()[name]
    pool = images.load("digits").x
    x = images.subset(pool, 20, seed=seed)
    torch.manual_seed(seed)  # the rivals' weights come from the global generator
    loop, spent, seen, fraction = train(x, make(1, 8, 32), lr, seed, float(pool.std())), 0.0, 0, 0.0
    while fraction < REACHED and spent < limit:
        holder: list[nn.Module] = []
        spent += seconds(lambda: holder.extend([next(loop) for _ in range(every // BATCH)][-1:]))  # noqa: B023
        seen += every
        fraction = measures.memorization(sample(holder[0], (1, 8, 8), range(200)), x).fraction
    return {"seconds": round(spent, 1), "images_seen": seen, "fraction": fraction}


def memorizing_speed(limit: float = 240.0) -> dict[str, object]:
    """Time until 20 digits are memorized, each at the learning rate that was fastest on seed 0; seeds 10 and 11."""
    report: dict[str, object] = {"configuration": f"20 digits, 32 channels, multipliers 1-2, batch {BATCH}"}
    for name in networks():
        trials = {lr: memorized_after(name, lr, 0, limit) for lr in RATES}
        best = min(trials, key=lambda lr: (trials[lr]["fraction"] < REACHED, trials[lr]["seconds"]))
        report[name] = {
            "lr": best,
            "trials": trials,
            "runs": [memorized_after(name, best, seed, limit) for seed in (10, 11)],
        }
        print(name, json.dumps(report[name], indent=1), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each rival (7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (all)")
    parser.add_argument("--memorize", action="store_true", help="also the time until 20 digits are memorized")
    parser.add_argument("--out", type=Path, help="also write the report as JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "training, 28 x 28": partial(training_speed, options.rounds, 1, 28),
        "training, 32 x 32 x 3": partial(training_speed, options.rounds, 3, 32),
        "training, 8 x 8": partial(training_speed, options.rounds, 1, 8, steps=10),
        "sampling, 28 x 28": partial(sampling_speed, max(2, options.rounds // 3), 1, 28),
        "sampling, 8 x 8": partial(sampling_speed, options.rounds, 1, 8),
    }
    if options.memorize:
        parts["memorizing"] = memorizing_speed
    report: dict[str, object] = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
    for name, part in parts.items():
        report[name] = part()
        print(name, json.dumps(report[name], indent=1), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
