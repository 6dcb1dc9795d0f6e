# SPDX-License-Identifier: Apache-2.0
"""How labels go wrong: transition matrices T_ij = P(noisy label j | true label i), rows by the TRUE class.

noisy posterior   g(x) = T(x)^T f(x)                  (f as a row times T)
forward risk      R = -(1/N) sum log g_ybar(x)        (Patrini et al., CVPR 2017)
given a label     P(Y != ybar | x, ybar) = 1 - f_ybar T_ybar,ybar / g_ybar
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.classification.method import checked_label
from mien.errors import BadInput

LEAST = 1e-12
"""Least probability whose logarithm is taken (the released code's)."""
BOUND = 1e-5
"""Entries are clamped to [BOUND, 1 - BOUND] before rows are normalised (the released code's)."""


def noisy_posterior(posterior: Tensor, transition: Tensor) -> Tensor:
    """G = T^T f: (B, K) and (B, K, K), or one (K, K) for all -> (B, K).

    >>> noisy_posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.2], [0.0, 1.0]]))
    tensor([[0.8000, 0.2000]])
    """
    return (posterior[..., None, :] @ transition)[..., 0, :]


def forward_risk(noisy: Tensor, label: Tensor) -> Tensor:
    """R of noisy posteriors (B, K) and noisy labels (B,); B = 0 gives a zero that is connected.

    Raises:
        BadInput: For a label that is no class.
    """
    log = noisy.clamp_min(LEAST).log()
    return F.nll_loss(log, checked_label(label, noisy.shape[1]), reduction="sum") / max(len(label), 1)


def mislabelled(posterior: Tensor, transition: Tensor, label: Tensor) -> Tensor:
    """Chance that the given labels are wrong, (B,) in [0, 1], from (B, K), (B, K, K) and (B,).

    >>> T = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]])
    >>> mislabelled(torch.tensor([[0.5, 0.5]]), T, torch.tensor([0]))
    tensor([0.2000])
    """
    at = label[:, None]
    kept = posterior.gather(1, at) * transition.diagonal(dim1=1, dim2=2).gather(1, at)
    return 1 - (kept / noisy_posterior(posterior, transition).gather(1, at).clamp_min(LEAST))[:, 0]


class TransitionNetwork(nn.Module):
    """T(x; theta) from the classifier's posterior p = f(x): (B, K) -> (B, K, K), rows sum to 1.

    One linear map K -> K^2 without bias, clamped, each row L1-normalised. It starts near the identity: for every p, row
    i is 0.9 on class i plus 0.1 / K everywhere. (Clamping zeroes the gradient of entries at the bounds: the paper's.)
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(classes, classes * classes, bias=False)
        with torch.no_grad():  # the same value for every input: p sums to 1
            start = 0.9 * torch.eye(classes) + 0.1 / classes
            self.linear.weight.copy_(start.reshape(-1, 1).expand(-1, classes))

    def forward(self, posterior: Tensor) -> Tensor:
        """Transition matrices."""
        matrix = self.linear(posterior).unflatten(1, (self.classes, self.classes)).clamp(BOUND, 1 - BOUND)
        return matrix / matrix.sum(dim=2, keepdim=True)


def anchor_transition(posterior: Tensor, quantile: float = 0.97) -> Tensor:
    """One T for all images, (K, K), from anchor points: images that surely are of a class.

    Row i is the noisy posterior of the image whose P(noisy label i) stands at the quantile of all images; a little
    below the maximum, which may be an outlier (Patrini et al. use 0.97 and, for many classes, 1).

    Args:
        posterior: Noisy posteriors (N, K) of a network trained on the noisy labels.
        quantile: In (0, 1].

    Raises:
        BadInput: There is no image.
    """
    if not len(posterior):
        raise BadInput("anchor points are looked for among 0 images: give training data")
    rank = round(quantile * (len(posterior) - 1))
    anchor = posterior.sort(dim=0).indices[rank]  # (K,): an image for each class
    return posterior[anchor] / posterior[anchor].sum(dim=1, keepdim=True)


def transition_error(estimate: Tensor, truth: Tensor) -> float:
    """||T_hat - T||_1 / ||T||_1 over all entries of two tensors of one shape, such as true rows (N, K).

    >>> transition_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.75, 0.25]]))
    0.5
    """
    return float((estimate.double() - truth.double()).abs().sum() / truth.double().abs().sum())


def rows_of(transition: Tensor, label: Tensor) -> Tensor:
    """The rows of the true classes: (N, K, K) and (N,) -> (N, K)."""
    return transition[torch.arange(len(label)), label]
