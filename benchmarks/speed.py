"""Speed, side by side in one run: our training loop against the plain one, ensembles against one by one, neighbors.

    make bench                                 all of it, about two minutes on two idle cores
    python benchmarks/speed.py --rounds 5      quicker and rougher

Rivals take turns, round after round, so that a busy neighbor slows both. Printed are medians, and for each ratio the
95 % interval of a bootstrap over the rounds. Rates are shares of what the same machine reached, in the same run, on
one large float32 product.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spikiness import measures
from spikiness.measures.neighbors import CHUNK
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, descend, fit_ensemble

SIGMA, LAM = 0.2, 0.05


def plain(x: torch.Tensor, width: int, batch: int, steps: int, tied: bool) -> None:
    """The loop most people would write: nn.Linear, MSELoss, default Adam; objective (6), summed over pixels."""
    d = x.shape[1]
    encode, decode = nn.Linear(d, width, bias=False), nn.Linear(width, d, bias=False)
    if tied:
        decode.weight = None
    weights = [encode.weight] if tied else [encode.weight, decode.weight]
    optimizer, loss_of = torch.optim.Adam(weights), nn.MSELoss(reduction="sum")
    for _ in range(steps):
        clean = x[torch.randint(len(x), (batch,))]
        h = torch.relu(encode(clean + SIGMA * torch.randn_like(clean)))
        estimate = h @ encode.weight if tied else decode(h)
        penalty = LAM * (2 if tied else 1) * sum(weight.square().sum() for weight in weights)
        loss = loss_of(estimate, clean) / batch + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours(x: torch.Tensor, width: int, batch: int, steps: int, tied: bool) -> None:
    network = ReLUDAE(x.shape[1], width, tied)
    for _ in descend([network], [Member(x, width, SIGMA, LAM)], batch=batch, steps=steps):
        pass


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def race(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds [rounds] of each rival, taking turns, after one warm-up each."""
    for work in rivals.values():
        work()
    times = [{name: seconds(work) for name, work in rivals.items()} for _ in range(rounds)]
    return {name: np.array([turn[name] for turn in times]) for name in rivals}


def ratio(slow: np.ndarray, fast: np.ndarray) -> dict[str, object]:
    """Median of slow / fast over the rounds, with its interval."""
    quotient = slow / fast
    interval = measures.bootstrap(quotient, np.median, draws=2000)
    return {"times": round(float(np.median(quotient)), 2), "interval": [round(end, 2) for end in interval]}


def matmul_rate(size: int = 2048) -> float:
    """FLOP per second of one square float32 product, the best of several."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(8))


def reference_step(
    rounds: int, steps: int = 100, d: int = 1024, width: int = 100, batch: int = 256
) -> dict[str, object]:
    """One step of the paper's DAE: milliseconds, times faster than the plain loop, share of the machine's rate."""
    x, peak = torch.randn(5000, d), matmul_rate()
    report: dict[str, object] = {"configuration": f"d {d}, p {width}, batch {batch}", "peak_gflops": round(peak / 1e9)}
    for tied in (True, False):
        rivals = {"plain": plain, "ours": ours}
        times = race({name: partial(f, x, width, batch, steps, tied) for name, f in rivals.items()}, rounds)
        per_step = {name: float(np.median(t)) / steps for name, t in times.items()}
        report["tied" if tied else "untied"] = {
            **{f"{name}_ms": round(1e3 * s, 3) for name, s in per_step.items()},
            **{f"{name}_of_peak": round(5 * 2 * batch * d * width / s / peak, 3) for name, s in per_step.items()},
            "ours_faster": ratio(times["plain"], times["ours"]),
        }
    return report


def ensemble(rounds: int, steps: int = 300, count: int = 64, d: int = 64, width: int = 32, batch: int = 64) -> dict:
    """64 small networks at once against one by one, in our loop and in the plain one (timed on 8 of them)."""
    x = torch.randn(1000, d)
    members = [Member(x, width, SIGMA, LAM, seed) for seed in range(count)]
    few = 8

    def together() -> None:
        networks = [ReLUDAE(d, width) for _ in members]
        for _ in descend(networks, members, batch=batch, steps=steps):
            pass

    rivals = {
        "together": together,
        "one by one": lambda: [ours(x, width, batch, steps, True) for _ in range(few)],
        "plain, one by one": lambda: [plain(x, width, batch, steps, True) for _ in range(few)],
    }
    times = race(rivals, rounds)
    per = {name: t / steps / (count if name == "together" else few) for name, t in times.items()}
    return {
        "configuration": f"{count} networks of d {d}, p {width}, batch {batch}",
        **{f"{name}: ms per network and step": round(1e3 * float(np.median(t)), 4) for name, t in per.items()},
        "faster than one by one": ratio(per["one by one"], per["together"]),
        "faster than plain": ratio(per["plain, one by one"], per["together"]),
    }


def products(a: torch.Tensor, b: torch.Tensor) -> None:
    """a @ b.T, one chunk of rows at a time."""
    for part in a.split(max(1, CHUNK // len(b))):
        part @ b.T


def neighbors(rounds: int) -> list[dict[str, object]]:
    """Exact nearest neighbors against the bare product that proposes candidates, done in the same chunks of rows."""
    reports = []
    for samples, train, d, turns in ((2000, 10000, 784, rounds), (10000, 50000, 3072, max(3, rounds // 5))):
        a, b = torch.randn(samples, d), torch.randn(train, d)
        rivals = {"product": partial(products, a, b), "nearest": partial(measures.nearest, a, b)}
        times = race(rivals, turns)
        report = {
            "configuration": f"{samples} in {train} x {d}",
            "rounds": turns,
            **{f"{name}_seconds": round(float(np.median(t)), 3) for name, t in times.items()},
            "nearest_over_product": ratio(times["nearest"], times["product"]),
        }
        reports.append(report)
    return reports


def converged(seeds: int = 5) -> dict[str, object]:
    """Seconds to train five seeds to convergence side by side, at the size the documentation quotes."""
    x = torch.randn(2000, 100)
    networks: list[ReLUDAE] = []
    spent = seconds(lambda: networks.extend(fit_ensemble([Member(x, 60, SIGMA, 1e-3, seed) for seed in range(seeds)])))
    return {"networks": seeds, "seconds": round(spent, 1), "stationarity": [n.record["stationarity"] for n in networks]}


PARTS: dict[str, Callable[[int], dict[str, object]]] = {
    "reference step": reference_step,
    "ensemble": ensemble,
    "neighbors": neighbors,
    "converged": lambda rounds: converged(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each rival (15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (all)")
    parser.add_argument("--out", type=Path, help="also write the report as JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
    for name, part in PARTS.items():
        report[name] = part(options.rounds)
        print(name, json.dumps(report[name], indent=1), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
