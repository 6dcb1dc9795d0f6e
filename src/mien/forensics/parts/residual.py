# SPDX-License-Identifier: Apache-2.0
"""Autoencoders that explain away what does not matter for the decision: what is left over, x - G(x), is classified.

    VQ        z_e = E(x), (d, H/4, W/4);   i*(p) = argmin_i ||z_e(p) - W_i||;   z_q(p) = W_i*(p);   G(x) = D(z_q)
    Gaussian  mu, log s2 = E(x);   z = mu + eps s;   G(x) = D(z);   KL = -1/2 sum(1 + log s2 - mu^2 - s2) / (3 B z)

Two look-ups, two gradient routes: the decoder passes its gradient straight through to z_e and does not move the
codebook; the codebook is moved by `codebook_loss` alone, which does not move the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadInput


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a - b)^2 over all entries; 0, connected to both, where there are none."""
    return (a - b).square().sum() / max(a.numel(), 1)


def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """Number of the nearest code at every position: (B, d, h, w) and (d, k) -> (B, h, w)."""
    vectors = z.movedim(1, -1)
    # ||z - W_i||^2 without ||z||^2, which is the same for all codes
    return (codebook.square().sum(dim=0) - 2 * vectors @ codebook).argmin(dim=-1)


def codebook_loss(codebook: Tensor, z: Tensor, code: Tensor) -> Tensor:
    """Moves code i towards the mean m_i of its vectors: 1/2 sum over the codes in use of ||W_i - m_i||^2.

    Its gradient is exactly W_i - m_i, and 0 for a code without positions. It is that of the sum over positions of
    1/2 ||W_i*(p) - z_e(p)||^2 with the mean, not the sum, of each code's gradients. The literal mean over all entries
    would move a code by 1e-9 of the way and freeze the codebook; sums in both places diverge.

    Args:
        codebook: W, (d, k).
        z: z_e, (B, d, h, w); no gradient flows to it.
        code: What `nearest_code` gave, (B, h, w).
    """
    vectors = z.detach().movedim(1, -1).flatten(0, -2)
    belongs = F.one_hot(code.flatten(), codebook.shape[1]).to(vectors.dtype)
    positions = belongs.sum(dim=0)
    mean = (vectors.T @ belongs) / positions.clamp_min(1)
    return 0.5 * ((codebook - mean).square() * (positions > 0)).sum()


@dataclass
class Explained:
    """What an autoencoder makes of a batch.

    Args:
        image: G(x), (B, 3, H, W).
        losses: Unweighted terms besides the reconstruction, by name.
        code: Numbers of the codes, (B, h, w), where there is a codebook.
    """

    image: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    code: Tensor | None = None


class ResidualUnit(nn.Module):
    """u + Conv1x1(LReLU(Conv3x3(LReLU(u)))) with d channels throughout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 1)

    def forward(self, u: Tensor) -> Tensor:
        """(B, d, h, w) -> the same shape."""
        return u + self.conv1(F.leaky_relu(self.conv3(F.leaky_relu(u))))


def encoder(width: int) -> nn.Sequential:
    """E: (B, 3, H, W) -> (B, d, H/4, W/4)."""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(),
        ResidualUnit(width),
        nn.BatchNorm2d(width),
        ResidualUnit(width),
        nn.BatchNorm2d(width),
    )


def decoder(width: int) -> nn.Sequential:
    """D: (B, d, H/4, W/4) -> (B, 3, H, W). tanh alone does not reach the range of normalised images: hence the norm."""
    return nn.Sequential(
        ResidualUnit(width),
        nn.BatchNorm2d(width),
        ResidualUnit(width),
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(),
        nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        nn.Tanh(),
        nn.BatchNorm2d(3),
    )


class VQAutoencoder(nn.Module):
    """The vector-quantised autoencoder; 310,729 parameters with d = 64, k = 128.

    Args:
        width: d, channels.
        codes: k, size of the codebook.
    """

    def __init__(self, width: int = 64, codes: int = 128) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(width), decoder(width)
        _initialise(self)
        nn.init.constant_(_last_norm(self.encoder).weight, 1 / 40)  # z_e starts on the scale of the codebook
        self.codebook = nn.Parameter(0.02 * torch.randn(width, codes))

    def forward(self, x: Tensor) -> Explained:
        """G of normalised images (B, 3, H, W), H and W multiples of 4, with the terms "codebook" and "commitment"."""
        z = self.encoder(x)
        code = nearest_code(z.detach(), self.codebook.detach())
        quantised = self.codebook.detach().T[code].movedim(-1, 1)
        losses = {
            "codebook": codebook_loss(self.codebook, z, code),
            "commitment": mean_square(z, quantised),
        }
        return Explained(self.decoder(z + (quantised - z).detach()), losses, code)


class GaussianAutoencoder(nn.Module):
    """The Gaussian alternative, with fully connected layers to and from the latent: for small images.

    Args:
        width: d, channels.
        latent: Size z of the latent.
        image_size: Side of the images, a multiple of 4.
    """

    def __init__(self, width: int, latent: int, image_size: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(width), decoder(width)
        _initialise(self)
        self.side = image_size // 4
        features = width * self.side**2
        self.mean, self.log_variance = nn.Linear(features, latent), nn.Linear(features, latent)
        self.spread = nn.Linear(latent, features)

    def forward(self, x: Tensor) -> Explained:
        """G of normalised images (B, 3, H, W) with the term "kl". Training draws z, evaluation takes its mean."""
        features = self.encoder(x).flatten(1)
        mean, log_variance = self.mean(features), self.log_variance(features)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        start = self.spread(z).view(len(x), -1, self.side, self.side)
        return Explained(self.decoder(start), {"kl": kl_divergence(mean, log_variance)})


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """-1/2 sum(1 + log s2 - mu^2 - s2) / (batch * 3 * z) of mu and log s2, both (B, z)."""
    total = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return total / max(3 * mean.numel(), 1)


def local_mean(x: Tensor, side: int = 5) -> Tensor:
    """The mean of each side x side neighbourhood (edges mirrored), (B, C, H, W): a fixed G, nothing is learned."""
    if side < 1 or side % 2 == 0:
        raise BadInput(f"side is {side}: it must be odd")
    reach = side // 2
    return F.avg_pool2d(F.pad(x, (reach, reach, reach, reach), mode="reflect"), side, stride=1)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) and biases 0 for ordinary convolutions; transposed ones keep the library's default."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.normal_(child.weight, 0.0, 0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def _last_norm(module: nn.Module) -> nn.BatchNorm2d:
    return [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)][-1]
