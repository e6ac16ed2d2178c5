"""The contract of a denoiser, and the three whose formula is known.

A denoiser is any callable `D(y, sigma) -> estimate of x`, for a noisy `y = x + sigma * eps`, eps ~ N(0, I), with sigma
the *standard deviation* of the noise in data units. Closed forms and trained networks are the same kind of object, so
that memorization is a distance between two callables.

The closed forms compute in float64, whatever they are given, and answer in the type of `y`: their exponents are
differences of large numbers divided by sigma^2, which is exactly where float32 fails.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikiness.errors import SpikinessError

NEAREST = 8  # training images per noisy one whose distance is taken from differences
ENTRIES = 2**24  # of the largest matrix held at once: 128 MB in float64


class Denoiser(Protocol):
    """Anything that maps noisy y [N, ...] and a noise level (a number or [N]) to an estimate of x, shaped as y."""

    def __call__(self, y: Tensor, sigma: Tensor | float) -> Tensor: ...


def score(denoiser: Denoiser, y: Tensor, sigma: Tensor | float) -> Tensor:
    """Gradient of the log density of noisy data at y, `(D(y, sigma) - y) / sigma^2` (Tweedie's formula).

    The paper's text prints `x - f`, a slip of sign: the score points from the noisy image *to* the denoised one.
    """
    level = noise_level(sigma, y, y.ndim)
    return (denoiser(y, sigma) - y) / level.square()


class Empirical:
    """The best denoiser of a finite training set: it memorizes (f_emp: a softmax-weighted mean of training images).

    `D(y, sigma) = sum_i w_i x_i`, `w = softmax_i(-|y - x_i|^2 / (2 sigma^2))`. As sigma -> 0 it returns the nearest
    training image, bit for bit.

    train: [n, *shape], at least one image. Called with y [..., *shape] and sigma a number or [N].
    Raises SpikinessError for other shapes, for values that are not finite and for sigma <= 0.
    """

    def __init__(self, train: Tensor):
        train = _finite(train, "train")
        if train.ndim < 2 or train.numel() == 0:
            raise SpikinessError(f"train has shape {list(train.shape)}; it needs [n, *shape] with at least one image")
        self.shape = train.shape[1:]
        self._train = train.flatten(1).double()  # [n, d]

    def __call__(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        flat, level = _flatten(y, sigma, self.shape)  # [N, d], [N, 1]
        rows = max(1, ENTRIES // max(len(self._train), NEAREST * flat.shape[1]))
        parts = [self.weights(*part) @ self._train for part in zip(flat.split(rows), level.split(rows), strict=True)]
        return torch.cat(parts).reshape(y.shape).to(y.dtype)

    def weights(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Posterior probability [N, n] of each training image, for flat y [N, d] and sigma [N, 1] in float64."""
        distance = self._squared_distances(y)
        excess = distance - distance.detach().amin(1, keepdim=True)
        return torch.softmax(-0.5 * excess / sigma / sigma, dim=1)  # two divisions: sigma^2 could underflow

    def _squared_distances(self, y: Tensor) -> Tensor:
        """|y - x_i|^2 [N, n]: one matrix product for all, differences where cancellation would show."""
        x = self._train
        distance = y.square().sum(1, keepdim=True) + x.square().sum(1) - 2 * y @ x.T
        near = distance.topk(min(NEAREST, len(x)), largest=False).indices  # [N, k]
        return distance.scatter(1, near, (y.unsqueeze(1) - x[near]).square().sum(2))


class Wiener:
    """The best denoiser of one Gaussian N(mean, cov), which is linear: `mean + cov (cov + sigma^2 I)^-1 (y - mean)`.

    mean: [*shape], d values in all; cov: [d, d], symmetric, positive semidefinite. Called with y [..., *shape].
    Raises SpikinessError for other shapes, for values that are not finite and for sigma <= 0.
    """

    def __init__(self, mean: Tensor, cov: Tensor):
        mean = _finite(mean, "mean")
        self.shape = mean.shape
        self._mean = mean.flatten().double()  # [d]
        self._energies, self._axes = _eigen(cov, self._mean.shape)  # [d], [d, d]

    def __call__(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        flat, level = _flatten(y, sigma, self.shape)
        shrink = self._energies / (self._energies + level.square())  # [N, d]
        estimate = self._mean + ((flat - self._mean) @ self._axes * shrink) @ self._axes.T
        return estimate.reshape(y.shape).to(y.dtype)


class Mixture:
    """The best denoiser of sum_k rho_k N(mean_k, cov_k): the ground truth f_gt where the data are that mixture.

    Responsibilities under N(mean_k, cov_k + sigma^2 I), times the Wiener estimate of each mode.

    means: [K, *shape], d values each; covs: [K, d, d]; weights: [K], not negative, made to sum to 1.
    Called with y [..., *shape]. Raises SpikinessError for other shapes, values that are not finite and sigma <= 0.
    """

    def __init__(self, means: Tensor, covs: Tensor, weights: Tensor | Sequence[float]):
        means = _finite(means, "means")
        weights = _finite(torch.as_tensor(weights, dtype=torch.float64, device=means.device), "weights")
        if means.ndim < 2 or weights.shape != means.shape[:1]:
            raise SpikinessError(
                f"means {list(means.shape)} and weights {list(weights.shape)} do not go together: "
                "they need [K, *shape] and [K]"
            )
        if (weights < 0).any() or weights.sum() <= 0:
            raise SpikinessError(f"weights {weights.tolist()} must not be negative, nor all zero")
        self.shape = means.shape[1:]
        self._means = means.flatten(1).double()  # [K, d]
        self._log_weights = (weights / weights.sum()).log()  # [K]
        self._energies, self._axes = _eigen(covs, self._means.shape)  # [K, d], [K, d, d]

    @classmethod
    def from_factors(cls, means: Tensor, factors: Sequence[Tensor], weights: Tensor | Sequence[float]) -> "Mixture":
        """The mixture with cov_k = F_k F_k^T, for factors F_k [d, r_k] (the form `images.mixture` samples from)."""
        return cls(means, torch.stack([f @ f.T for f in factors]), weights)

    def __call__(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        flat, level = _flatten(y, sigma, self.shape)
        logs, coordinates = self._log_joint(flat, level)
        shrink = self._energies.unsqueeze(1) / self._variances(level)  # [K, N, d]
        estimates = self._means.unsqueeze(1) + coordinates * shrink @ self._axes.mT  # [K, N, d]
        estimate = (torch.softmax(logs, dim=0).unsqueeze(2) * estimates).sum(0)
        return estimate.reshape(y.shape).to(y.dtype)

    def log_density(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """Log density of noisy data, log sum_k rho_k N(y; mean_k, cov_k + sigma^2 I), in y's leading shape."""
        flat, level = _flatten(y, sigma, self.shape)
        logs, _ = self._log_joint(flat, level)
        return logs.logsumexp(0).reshape(y.shape[: y.ndim - len(self.shape)]).to(y.dtype)

    def _variances(self, level: Tensor) -> Tensor:
        return self._energies.unsqueeze(1) + level.square()  # [K, N, d], eigenvalues of cov_k + sigma^2 I

    def _log_joint(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """log rho_k N(y; mean_k, cov_k + sigma^2 I) [K, N], and y - mean_k on the axes of cov_k [K, N, d]."""
        coordinates = (y - self._means.unsqueeze(1)) @ self._axes  # [K, N, d]
        variances = self._variances(level)
        terms = coordinates.square() / variances + (2 * torch.pi * variances).log()
        return self._log_weights.unsqueeze(1) - 0.5 * terms.sum(2), coordinates


class EDM(nn.Module):
    """A raw network F made a denoiser: `D(y, sigma) = c_skip y + c_out F(c_in y, log(sigma) / 4)` (Karras et al. 2022).

    The scales keep F's input and target at unit variance where the data have standard deviation `sigma_data`. Called
    with images y [N, C, H, W], sigma a number or [N], and labels [N] where the network has classes (none: the null
    label). Raises SpikinessError for a sigma that is not positive or does not fit y.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5):
        super().__init__()
        if not 0 < sigma_data < float("inf"):
            raise SpikinessError(f"sigma_data is {sigma_data}; it is the standard deviation of the data, above 0")
        self.network, self.sigma_data = network, float(sigma_data)
        self.arguments: dict[str, Any] = {"sigma_data": self.sigma_data}
        self.record: dict[str, Any] = {}

    def forward(self, y: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """D(y, sigma) for images y [N, C, H, W], in their shape; sigma a number or [N], labels [N] or None."""
        return self.precondition(y, noise_level(sigma, y, y.ndim), labels)

    def precondition(self, y: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoiser without checks, for `level` shaped to multiply y: training calls it every step."""
        total = (level.square() + self.sigma_data**2).sqrt()
        c_skip, c_out = (self.sigma_data / total).square(), level * self.sigma_data / total
        f = self.network(y / total, level.log().flatten() / 4, labels)
        return c_skip * y + c_out * f

    def loss_weight(self, level: Tensor) -> Tensor:
        """EDM's weight of the squared error, 1 / c_out^2: every noise level counts alike at the start."""
        return (level.square() + self.sigma_data**2) / (level * self.sigma_data).square()


class Guided:
    """Classifier-free guidance: `D_null + guidance (D_labels - D_null)`; 1 is the plain conditional denoiser."""

    def __init__(self, denoiser: Callable[..., Tensor], labels: Tensor, guidance: float = 1.0):
        self.denoiser, self.labels, self.guidance = denoiser, labels, guidance

    def __call__(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        conditional = self.denoiser(y, sigma, self.labels)
        return conditional if self.guidance == 1 else torch.lerp(self.denoiser(y, sigma), conditional, self.guidance)


def noise_level(sigma: Tensor | float, y: Tensor, ndim: int) -> Tensor:
    """sigma in y's type, shaped to multiply tensors of `ndim` dimensions that share y's leading shape.

    Raises SpikinessError unless it is finite and positive, and fits the leading shape of y.
    """
    level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device)
    good = (level > 0) & level.isfinite()
    if not _all(good):
        raise SpikinessError(f"sigma = {level[~good].flatten()[0].item()}; a noise level is positive and finite")
    if level.numel() == 1:
        return level.reshape(())
    if level.shape != y.shape[:ndim][: level.ndim]:
        raise SpikinessError(
            f"sigma has shape {list(level.shape)} and y {list(y.shape)}: sigma is a number or one value per item of y"
        )
    return level.reshape(level.shape + (1,) * (ndim - level.ndim))


def _flatten(y: Tensor, sigma: Tensor | float, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """y [..., *shape] as [N, d] and sigma as [N, 1], in float64."""
    batch = y.ndim - len(shape)
    if batch < 0 or y.shape[batch:] != shape:
        raise SpikinessError(f"y has shape {list(y.shape)}; this denoiser takes [..., {', '.join(map(str, shape))}]")
    y = _finite(y, "y").double()
    level = noise_level(sigma, y, batch).expand(y.shape[:batch])
    return y.reshape(-1, shape.numel()), level.reshape(-1, 1)


def _eigen(cov: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., d] and axes [..., d, d] of covariances that must fit means of this flat shape [..., d]."""
    cov = _finite(cov, "cov").double()
    if cov.shape != (*shape, shape[-1]):
        raise SpikinessError(f"cov has shape {list(cov.shape)}; these means need {[*shape, shape[-1]]}")
    tolerance = 1e-5 * cov.abs().amax()  # room for covariances computed in float32
    if ((cov - cov.mT).abs() > tolerance).any():
        raise SpikinessError("cov is not symmetric; use (cov + cov.mT) / 2 if it should be")
    energies, axes = torch.linalg.eigh((cov + cov.mT) / 2)
    if (energies < -tolerance).any():
        raise SpikinessError(f"cov has the eigenvalue {energies.min():.3g}; a covariance has none below 0")
    return energies.clamp(min=0), axes


def _finite(values: Tensor, name: str) -> Tensor:
    if not values.is_floating_point():
        raise SpikinessError(f"{name} is {values.dtype}; pass floating-point values, for instance {name}.float()")
    if not _all(values.isfinite()):
        raise SpikinessError(f"{name} holds values that are not finite (NaN or infinity)")
    return values


def _all(good: Tensor) -> bool:
    try:
        return bool(good.all())
    except RuntimeError:  # inside torch.func.vmap values cannot be looked at; NaN then comes out as NaN
        return True
