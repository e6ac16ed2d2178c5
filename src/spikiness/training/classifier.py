"""Training of the small classifier whose features measure the quality of samples."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from spikiness.errors import Diverged, SpikinessError
from spikiness.networks.classifier import Classifier
from spikiness.training.dae import schedule

IMAGES_SEEN = 50_000  # by default: enough for the digits and MNIST to reach .98 of held-out images


def fit_classifier(
    x: Tensor,
    labels: Tensor,
    seed: int = 0,
    *,
    classes: int | None = None,
    width: int = 32,
    epochs: int | None = None,
    batch: int = 64,
    lr: float = 2e-3,
    progress: bool = False,
) -> Classifier:
    """A `Classifier` of square images x [N, C, H, W] by labels [N], whole numbers 0 to `classes` - 1, by cross-entropy.

    `classes` defaults to the largest label + 1, `epochs` to as many as show 50,000 images (780 steps), at least 5.
    AdamW; `seed` alone decides weights and order. `.record` says how it was trained, the mean loss of each epoch, and
    loss and accuracy on the training images at the end. Raises `SpikinessError` for labels that are missing or out of
    range and other impossible values, `Diverged` at the first loss that is not finite.
    """
    labels, classes = _checked(x, labels, classes)
    for name, value in (("epochs", 5 if epochs is None else epochs), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")
    epochs = max(5, -(-IMAGES_SEEN // max(len(x), batch))) if epochs is None else epochs
    if not 0 < lr < float("inf"):
        raise SpikinessError(f"lr must be a finite number above 0, got {lr!r}; usually .002")
    generator = torch.Generator().manual_seed(seed)
    network = Classifier(x.shape[1], x.shape[2], classes, width, generator=generator).to(x.device, x.dtype)
    losses = [0.0] * epochs
    loop = _descend(network, x, labels, epochs, batch, lr, generator)
    for epoch, share in tqdm(loop, total=epochs * -(-len(x) // batch), desc="classifier", disable=not progress):
        losses[epoch] += share
    network.eval()
    network.record = {
        "seed": seed, "n": len(x), "epochs": epochs, "batch": batch, "lr": lr, "loss": losses,
        **dict(zip(("final_loss", "accuracy"), _evaluated(network, x, labels), strict=True)),
    }  # fmt: skip
    return network


def _descend(
    network: Classifier, x: Tensor, labels: Tensor, epochs: int, batch: int, lr: float, generator: torch.Generator
) -> Iterator[tuple[int, float]]:
    """Descend the cross-entropy, yielding after each step the epoch and the step's part of the epoch's mean loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01, fused=True)
    order = [torch.randperm(len(x), generator=generator).split(batch) for _ in range(epochs)]
    steps = [(epoch, index.to(x.device)) for epoch, parts in enumerate(order) for index in parts]
    for step, (epoch, index) in enumerate(steps):
        optimizer.param_groups[0]["lr"] = lr * schedule(step, len(steps))
        loss = cross_entropy(network(x[index]), labels[index])
        if not loss.isfinite():
            raise Diverged(
                f"the loss is {loss.item()} at step {step} of seed {generator.initial_seed()}, lr {lr:g}; lower lr"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield epoch, loss.item() * len(index) / len(x)


@torch.no_grad()
def _evaluated(network: Classifier, x: Tensor, labels: Tensor, batch: int = 500) -> tuple[float, float]:
    """Mean loss and accuracy."""
    logits = torch.cat([network(part) for part in x.split(batch)])
    return cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).double().mean().item()


def _checked(x: Tensor, labels: Tensor, classes: int | None) -> tuple[Tensor, int]:
    """Labels as int64 on the device of x, and the number of classes."""
    if not x.is_floating_point() or x.ndim != 4 or len(x) == 0 or x.shape[2] != x.shape[3]:
        raise SpikinessError(f"x must be float images [N, C, H, W] with H = W, got {x.dtype} of shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise SpikinessError(f"x holds {int((~x.isfinite()).sum())} values that are not finite; leave them out")
    if labels is None:
        raise SpikinessError("labels are missing; give one whole number for each image, as images.load(name).y")
    labels = torch.as_tensor(labels, device=x.device)
    if labels.is_floating_point() or labels.shape != (len(x),):
        raise SpikinessError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; give one whole number for each of the {len(x)} images"
        )
    low, high = int(labels.min()), int(labels.max())
    classes = max(high + 1, 2) if classes is None else classes
    if low < 0 or high >= classes:
        bad = int(((labels < 0) | (labels >= classes)).sum())
        raise SpikinessError(
            f"{bad} labels lie outside 0 to {classes - 1}: they span {low} to {high}; mend or drop them"
        )
    return labels.long(), classes
