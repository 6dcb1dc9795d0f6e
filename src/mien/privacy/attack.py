# SPDX-License-Identifier: Apache-2.0
"""What somebody without the key can try: near passphrases, with and without the verifier, and a trained decoder.

With the verifier a guess costs one derivation of the key. Without it each guess must be decoded and looked at: the
right picture is far smoother than all others, so looking can be left to a machine, and only the cost of the derivation
and the length of the passphrase are in the way. A decoder needs no guesses, but the weights, or many pairs of
protected pictures and originals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine import Losses, Method, Phase
from mien.engine.method import Optimizers
from mien.nn.wavelet import haar, inverse_haar
from mien.optim.recipe import Recipe
from mien.privacy.data import Portrait
from mien.privacy.flow import DenseBlock
from mien.privacy.keys import key_bits, verified
from mien.privacy.obfuscate import Obfuscation
from mien.privacy.pro_face_s import ProFaceS

LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789 "


def neighbours(passphrase: bytes, count: int) -> list[bytes]:
    """Passphrases that differ from one in one letter, then in one letter with another one added, in a fixed order.

    >>> neighbours(b"ab", 3)
    [b'bb', b'cb', b'db']
    """
    once = [
        passphrase[:i] + bytes([letter]) + passphrase[i + 1 :]
        for i in range(len(passphrase))
        for letter in LETTERS
        if letter != passphrase[i]
    ]
    longer = [near + bytes([letter]) for near in once for letter in LETTERS]
    return [*once, *longer][:count]


def accepted_guesses(masters: Sequence[bytes], salt: bytes, expected: bytes) -> list[int]:
    """Which of the derived keys a file's verifier accepts."""
    return [i for i, master in enumerate(masters) if verified(master, salt, expected)]


def revealed_by(
    model: ProFaceS, protected: Tensor, masters: Sequence[bytes], salt: bytes, place: int, batch: int = 100
) -> Tensor:
    """What each of the derived keys gives: (keys, 3, H, W), nominally in [0, 1].

    Args:
        model: The model that protected the picture.
        protected: One picture, (1, 3, H, W), nominally in [-1, 1].
        masters: Derived keys.
        salt: Of the file.
        place: Number of the picture's tile in its file.
        batch: Keys at a time.
    """
    size = (protected.shape[-2], protected.shape[-1])
    found = []
    for start in range(0, len(masters), batch):
        keys = torch.cat([key_bits(m, salt, size, place=place) for m in masters[start : start + batch]])
        with torch.no_grad():
            found.append((model.reveal(protected.expand(len(keys), -1, -1, -1), keys.to(protected.device)) + 1) / 2)
    return torch.cat(found)


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down plus across, of (B, 3, H, W) clipped to [0, 1]: (B,).

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor([1.])
    """
    image = image.clamp(0, 1)
    return image.diff(dim=-1).abs().mean(dim=(1, 2, 3)) + image.diff(dim=-2).abs().mean(dim=(1, 2, 3))


class Decoder(Method):
    """A network that is trained to undo an obfuscation, or to read a protected picture without its key.

    Args:
        obfuscation: Of the pictures.
        hider: A trained network whose protected pictures are read, each under a key of its own; None to read pictures
            in which nothing is hidden.
        blocks: Dense blocks of width 32 on the wavelet bands, each added to what it is given.
        lr: Learning rate of Adam.
    """

    name = "decoder-control"

    def __init__(
        self, obfuscation: Obfuscation, hider: ProFaceS | None = None, *, blocks: int = 3, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.obfuscation, self.lr = obfuscation, lr
        self.__dict__["hider"] = hider  # no part of what is trained
        self.blocks = nn.ModuleList(DenseBlock(12, 12, 32) for _ in range(blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> guesses at the originals."""
        bands = haar(image)
        for block in self.blocks:
            bands = bands + block(bands)
        return inverse_haar(bands)

    def losses(self, batch: Portrait) -> Losses:
        """The squared error, which is what PSNR measures."""
        kind, amount = self.obfuscation.draw()
        x, seen = batch.image * 2 - 1, self.obfuscation(batch.image, kind, amount) * 2 - 1
        hider: ProFaceS | None = self.__dict__["hider"]
        if hider is not None:
            with torch.no_grad():
                seen = hider.protect(seen, x, hider.new_bits(x))
        return {"squared_error": F.mse_loss(self(seen), x)}

    def optimizers(self, phase: Phase) -> Optimizers:
        """Adam at a constant rate, as for the network itself."""
        return {"main": Recipe(kind="adam", lr=self.lr, weight_decay=0.0).build(self.parameters(), phase.total_steps)}
