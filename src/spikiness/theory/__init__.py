"""What the theory of the two-layer ReLU denoiser predicts, in closed form (Theorem 3.1 and its corollaries).

The network is `f(y) = W2 relu(W1^T y)`, W1 and W2 in R^{d x p}, without biases, trained on the objective (6)
`(1/n) sum_i E|f(x_i + sigma eps) - x_i|^2 + lambda (|W1|_F^2 + |W2|_F^2)`, the square summed over the d values.

Shapes: clusters is a list of K tensors [n_k, d], n = sum n_k, rho_k = n_k/n; widths is a list of K numbers of units
p_k, p = sum p_k. In mode k the second moment X_k X_k^T / n_k has eigenvalues e = L/n_k, in which Theorem 3.1 reads
`w^2 = (L - n lambda)/(L + n_k sigma^2) = (e - lambda/rho_k)/(e + sigma^2)`: one formula, for finite n and the limit.

Everything is computed in float64; tensors come back in the type of the data. Nothing here assumes separable data: the
formulas answer for any, and `separability` and `margin` say how far to trust them. Every function raises
`SpikinessError` for clusters that are not [n_k, d] with one d, widths that do not fit them, values that are not
finite, sigma <= 0 and lam < 0.
"""

from spikiness.theory.allocation import copies_to_store, rank_directions, savings
from spikiness.theory.losses import (
    memorization_loss,
    population_loss,
    predicted_loss,
    predicted_test_loss,
    second_moments,
)
from spikiness.theory.minimizer import (
    Mode,
    block_minimizer,
    fit,
    gains,
    population_gains,
    predicted_representation,
    stored_gains,
)
from spikiness.theory.separation import margin, separability, separable_subset
from spikiness.theory.trained import Estimate, active_units, linear_maps, objective, operator_error, true_loss

__all__ = [
    "Estimate",
    "Mode",
    "active_units",
    "block_minimizer",
    "copies_to_store",
    "fit",
    "gains",
    "linear_maps",
    "margin",
    "memorization_loss",
    "objective",
    "operator_error",
    "population_gains",
    "population_loss",
    "predicted_loss",
    "predicted_representation",
    "predicted_test_loss",
    "rank_directions",
    "savings",
    "second_moments",
    "separability",
    "separable_subset",
    "stored_gains",
    "true_loss",
]
