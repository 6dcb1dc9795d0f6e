# SPDX-License-Identifier: Apache-2.0
"""PRO-Face S: Privacy-preserving Reversible Obfuscation of Face Images via Secure Flow.

Yuan, Liang, Pu, Zhang, Leng, Wu, Wang, Gao, IEEE TCSVT 34(7), 2024, arXiv 2307.09146.

A face x is blurred, pixelated or covered to y, and a small invertible network hides x inside y: the protected picture
looks like y, and from it and the key alone x comes back. With H the Haar transform (`mien.nn.wavelet`), K = H(bits) the
key, f the secure flow (`mien.privacy.flow`):

    protect   (Y_4, X_4) = f(H(y), H(x); K),    y^ = H^-1(Y_4);    X_4 is thrown away
    reveal    (Y_1, X_1) = f^-1(H(y^), (K, K, K); K),    x' = H^-1(X_1):    the key stands in for what was thrown away

x_w is what another key K_w reveals from y^. With P the LPIPS distance, averaged over the batch, and d_1 the mean
absolute error, one of two losses says what the wrong key shall find:

    random       0.3 L_img + 0.5 d_1(x, x') + 0.2 [TP(x, x', x_w) + T_1(x, x', x_w)]
    obfuscated   0.2 L_img + 0.3 [d_1(x', x) + d_1(x_w, y)] + 0.5 [TP(x', x, y) + TP(x_w, y, x)]
    L_img = 5 P(y, y^) + d_1(y, y^)
    TP(a, p, n) = max(0, P(a, p) - P(a, n) + 1.2)
    T_1(a, p, n) = mean over batch, channel and row of max(0, |a - p|_1 - |a - n|_1 + 1.2), |.|_1 summed along a row

Differences from the paper
    * Obfuscation by face swapping is left out: it needs two other trained models. Stickers are drawn, not cartoons.
    * `perceptual="none"` puts d_1 in the place of P, for small pictures and machines without VGG-16's weights.
    * The reference code adds 1e-6 inside |.|_1 of T_1; here nothing is added.
    * The key is derived by scrypt and SHAKE-256 (`mien.privacy.keys`), not by ten rounds of PBKDF2.

What protects, and what does not (`mien prove pro-face-s` measures each)
    * A learned flow is not cryptography. Somebody who has the weights can protect faces of his own and train a network
      that reads protected faces without any key: not as sharp as with the key, but in a small experiment nearly as
      well matched to their owners. Keep the weights as secret as the passphrase.
    * Keys that differ in few bits reveal nearly the same. Near passphrases give keys that differ in half of their bits,
      and these give noise.
    * For "random" the loss asks for distance alone. A long training reaches it by spots of extreme values, and between
      them a wrong key, too, shows the face. Look at what a wrong key gives, or train for "obfuscated" after it, as
      tools/shipped_weights.py does: then a wrong key finds the obfuscated picture.
    * The right one of many guesses can be told by its smoothness: without the verifier, too, only the length of the
      passphrase and the cost of a guess are in the way.

Example:
    >>> method = ProFaceS(blocks=1, growth=4)
    >>> face, key = torch.rand(1, 3, 16, 16) * 2 - 1, random_bits(1, (16, 16))
    >>> with torch.no_grad():  # untrained: y itself
    ...     method.protect(torch.zeros_like(face), face, key).abs().max()
    tensor(0.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.engine import Losses, Method, Phase
from mien.engine.method import Optimizers
from mien.engine.seeding import stable_seed
from mien.errors import BadInput
from mien.nn.empty import empty_loss
from mien.nn.lpips import Lpips
from mien.nn.wavelet import haar, inverse_haar
from mien.optim.recipe import Recipe
from mien.privacy.data import Portrait, Protection
from mien.privacy.flow import SecureFlow
from mien.privacy.keys import random_bits
from mien.privacy.obfuscate import STICKERS, Obfuscation

WrongRecovery = Literal["random", "obfuscated"]
MARGIN = 1.2
EPS = 1e-6
"""Of Adam (the reference code's value)."""


def hinge(positive: Tensor, negative: Tensor, margin: float = MARGIN) -> Tensor:
    """max(0, positive - negative + margin), element by element.

    >>> hinge(torch.tensor(0.5), torch.tensor(2.0)), hinge(torch.tensor(0.5), torch.tensor(1.0))
    (tensor(0.), tensor(0.7000))
    """
    return (positive - negative + margin).clamp(min=0)


def pixel_triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = MARGIN) -> Tensor:
    """T_1 of images (B, 3, H, W), a scalar. Distances are sums over the width: for wide images the margin is small."""
    near, far = (anchor - positive).abs().sum(dim=-1), (anchor - negative).abs().sum(dim=-1)
    return hinge(near, far, margin).mean()


class ProFaceS(Method):
    """PRO-Face S: an obfuscated face from which the key alone gives the original back.

    Args:
        blocks: Coupling blocks, N. The paper's value is 3.
        growth: Width of the dense blocks; with 32 the network has 1,073,040 parameters.
        wrong_recovery: What a wrong key shall find: "random" noise (RandWR) or the "obfuscated" face (ObfsWR).
        missing: What stands in for the branch that was thrown away: the "key" (the paper), or Gaussian "noise".
        perceptual: "lpips" (the paper; needs VGG-16's weights) or "none", which takes the mean absolute error instead.
        obfuscation: Which obfuscations are trained, one drawn for each batch, and how strong they are.
        image_size: Height and width in pixels of the training images, even. Others may be protected later.
        optimizer: How it is trained. The paper: Adam, 1e-5, weight decay 1e-5, no schedule.
    """

    name = "pro-face-s"
    scope = (
        "Hides faces in obfuscated pictures and reveals them to the holder of the key. Limits: a revealed picture is "
        "close to the original, not equal to it; a picture that was resized or compressed after it was protected "
        "reveals little; a learned network is not cryptography: whoever has these weights can train a network that "
        "reads much of what is hidden without a key, so keep them as secret as the passphrase. Whether a blurred face "
        "is recognised depends on who looks."
    )

    def __init__(
        self,
        *,
        blocks: int = 3,
        growth: int = 32,
        wrong_recovery: WrongRecovery = "random",
        missing: Literal["key", "noise"] = "key",
        perceptual: Literal["lpips", "none"] = "lpips",
        obfuscation: Obfuscation = Obfuscation(),
        image_size: int = 256,
        optimizer: Recipe = Recipe(kind="adam", lr=1e-5, weight_decay=1e-5),
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("wrong_recovery", wrong_recovery, ("random", "obfuscated")),
            ("missing", missing, ("key", "noise")),
            ("perceptual", perceptual, ("lpips", "none")),
        ):
            if value not in allowed:
                raise BadInput(f"{name} is {value!r}: use {' or '.join(allowed)}")
        least = 32 if perceptual == "lpips" else 16
        if image_size < least or image_size % 2:
            raise BadInput(f"image_size is {image_size}: it must be even and at least {least}")
        self.blocks, self.growth, self.wrong_recovery, self.missing = blocks, growth, wrong_recovery, missing
        self.perceptual, self.obfuscation = perceptual, obfuscation
        self.image_size, self.optimizer = image_size, optimizer
        self.flow = SecureFlow(blocks, growth)

    # --- what the paper adds ----------------------------------------------------------------------------------
    def protect(self, obfuscated: Tensor, original: Tensor, bits: Tensor) -> Tensor:
        """y^, which looks like `obfuscated` and holds `original`.

        Args:
            obfuscated: y, (B, 3, H, W) in [-1, 1], H and W even.
            original: x, likewise.
            bits: The key, (B, 1, H, W) of -1 and +1.

        Returns:
            (B, 3, H, W); values may leave [-1, 1].
        """
        cover, _ = self.flow(haar(obfuscated), haar(original), haar(bits))
        return inverse_haar(cover)

    def reveal(self, protected: Tensor, bits: Tensor) -> Tensor:
        """x', what the key finds in `protected`; shapes and ranges as for `protect`."""
        key = haar(bits)
        missing = key.repeat(1, 3, 1, 1) if self.missing == "key" else self._noise(key)
        _, secret = self.flow.inverse(haar(protected), missing, key)
        return inverse_haar(secret)

    def _noise(self, key: Tensor) -> Tensor:
        shape = (len(key), 3 * key.shape[1], *key.shape[-2:])
        if self.training:
            return torch.randn(shape, device=key.device)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(key.device)  # repeatable in use

    def distance(self, image: Tensor, target: Tensor) -> Tensor:
        """P: LPIPS averaged over the batch, or the mean absolute error; a scalar."""
        return (image - target).abs().mean() if self.perceptual == "none" else self._lpips()(image, target).mean()

    def loss(self, x: Tensor, y: Tensor, protected: Tensor, right: Tensor, wrong: Tensor) -> Losses:
        """The terms of the loss, weighted; images (B, 3, H, W) in [-1, 1], `right` and `wrong` as revealed."""
        image = 5 * self.distance(y, protected) + F.l1_loss(protected, y)
        if self.wrong_recovery == "random":
            triplet = hinge(self.distance(x, right), self.distance(x, wrong)) + pixel_triplet(x, right, wrong)
            return {"image": 0.3 * image, "recovery": 0.5 * F.l1_loss(right, x), "triplet": 0.2 * triplet}
        triplet = hinge(self.distance(right, x), self.distance(right, y))
        triplet = triplet + hinge(self.distance(wrong, y), self.distance(wrong, x))
        recovery = F.l1_loss(right, x) + F.l1_loss(wrong, y)
        return {"image": 0.2 * image, "recovery": 0.3 * recovery, "triplet": 0.5 * triplet}

    # --- training ---------------------------------------------------------------------------------------------
    def losses(self, batch: Portrait) -> Losses:
        """One protection, one recovery with the right key and one with another; gradients flow through all three."""
        if not len(batch.image):
            return {"image": empty_loss(self)}
        kind, amount = self.obfuscation.draw()
        stickers = torch.randint(STICKERS, (len(batch.image),)).tolist()
        y = self.obfuscation(batch.image, kind, amount, stickers=stickers) * 2 - 1
        x = batch.image * 2 - 1
        bits, other = (self.new_bits(x) for _ in range(2))
        protected = self.protect(y, x, bits)
        right, wrong = self.reveal(protected, bits), self.reveal(protected, other)
        self.log("mean_error_right_key", F.l1_loss(right.detach(), x))
        self.log("mean_error_wrong_key", F.l1_loss(wrong.detach(), x))
        return self.loss(x, y, protected, right, wrong)

    def new_bits(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Random bits for images (B, 3, H, W), on their device."""
        height, width = image.shape[-2:]
        return random_bits(len(image), (height, width), generator).to(image.device)

    def optimizers(self, phase: Phase) -> Optimizers:
        """The recipe's optimiser, with Adam's eps as in the reference code."""
        optimizer, schedule = self.optimizer.build(self.parameters(), phase.total_steps)
        for group in optimizer.param_groups:
            if "eps" in group:
                group["eps"] = EPS
        return {"main": (optimizer, schedule)}

    def check_trainable(self) -> None:
        """Raise BadInput when LPIPS is asked for and its weights cannot be had: before a run is begun."""
        if self.perceptual == "lpips":
            self._lpips()

    def _lpips(self) -> Lpips:
        """The perceptual network, made when first needed; it is neither trained nor saved."""
        found: Lpips | None = self.__dict__.get("_perceptual_network")
        if found is None:
            found = self.__dict__["_perceptual_network"] = Lpips()
        return found.to(self.device)

    # --- answers ----------------------------------------------------------------------------------------------
    def hide(self, image: Tensor, kind: str, bits: Tensor, other: Tensor) -> Protection:
        """All that can be seen of images (B, 3, H, W) in [0, 1], obfuscated as at test.

        Args:
            image: The originals.
            kind: One of the obfuscations; it need not be one that was trained.
            bits: The right keys, (B, 1, H, W) of -1 and +1.
            other: Wrong keys.
        """
        y = self.obfuscation(image, kind) * 2 - 1
        protected = self.protect(y, image * 2 - 1, bits)
        pictures = (y, protected, self.reveal(protected, bits), self.reveal(protected, other))
        return Protection(*((picture + 1) / 2 for picture in pictures))

    def predict(self, batch: Portrait) -> Protection:
        """Protect and reveal with the first of the trained obfuscations, keys drawn from a fixed seed."""
        right, wrong = (torch.Generator().manual_seed(stable_seed("pro-face-s", which)) for which in ("right", "wrong"))
        image = batch.image
        return self.hide(image, self.obfuscation.kinds[0], self.new_bits(image, right), self.new_bits(image, wrong))
