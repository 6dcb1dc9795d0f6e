# SPDX-License-Identifier: Apache-2.0
"""Where restoration happens: in pixels, or in the latents of a frozen autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mien.errors import BadInput, MissingExtra


class PixelSpace(nn.Module):
    """The image itself, [0, 1] spread to [-1, 1]."""

    factor = 1

    def __init__(self, colours: int) -> None:
        super().__init__()
        self.colours = self.channels = colours

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to [-1, 1]."""
        return image * 2 - 1

    def decode(self, latent: Tensor) -> Tensor:
        """Back to [0, 1], clamped."""
        return ((latent + 1) / 2).clamp(0, 1)


class LatentSpace(nn.Module):
    """The latents of an autoencoder of diffusers, whose weights never change. Latents are not clamped.

    Args:
        model: A VQModel (its code book is used in decoding) or an AutoencoderKL (the mean of its posterior).
        gain: What latents are multiplied by, after the model's own shift is taken off; None for the scaling factor of
            an AutoencoderKL, and for 1 with a VQModel: diffusers gives every VQModel without a factor that of another
            model, and residual shifting is done in the latents as they are.
    """

    def __init__(self, model: Any, gain: float | None = None) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        config = model.config
        self.colours, self.channels = int(config.in_channels), int(config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        own = 1.0 if config.get("num_vq_embeddings") else float(config.get("scaling_factor") or 1.0)
        self.gain, self.shift = own if gain is None else gain, float(config.get("shift_factor") or 0.0)

    def train(self, mode: bool = True) -> LatentSpace:
        """Always in eval mode."""
        return super().train(False)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to latents (B, c, H / factor, W / factor)."""
        found = self.model.encode(image * 2 - 1)
        latent = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
        return (latent - self.shift) * self.gain

    def decode(self, latent: Tensor) -> Tensor:
        """Back to [0, 1], clamped."""
        return ((self.model.decode(latent / self.gain + self.shift).sample + 1) / 2).clamp(0, 1)


Space = PixelSpace | LatentSpace


@dataclass(frozen=True)
class Autoencoder:
    """Which space. Plain data, for the command line and config.json.

    Args:
        name: "pixel"; or a folder, or a name on the hub, that holds a VQModel or AutoencoderKL of diffusers (extra
            `diffusion`). A model that was trained with it needs it again when it is loaded.
        colours: Channels of images in pixel space: 3, or 1 for grey.
        subfolder: Where in the folder or hub entry the autoencoder lies, as in pipelines ("vqvae", "vae").
        gain: What latents are multiplied by; None for 1 with a VQModel, for its scaling factor with an AutoencoderKL.
    """

    name: str = "pixel"
    colours: int = 3
    subfolder: str | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.colours not in (1, 3):
            raise BadInput(f"autoencoder.colours is {self.colours}: use 3, or 1 for grey")
        if self.gain is not None and not self.gain > 0:
            raise BadInput(f"autoencoder.gain is {self.gain}: it must be above 0")

    def build(self) -> Space:
        """The space.

        Raises:
            MissingExtra: Latents are wanted, and diffusers is not installed.
            BadInput: The files are not there and cannot be fetched, or hold something else.
        """
        if self.name == "pixel":
            return PixelSpace(self.colours)
        try:
            import diffusers
        except ImportError as error:
            raise MissingExtra(f"autoencoder {self.name!r}", "diffusion") from error
        try:
            kind = diffusers.AutoModel.load_config(self.name, subfolder=self.subfolder)["_class_name"]
            if kind not in ("VQModel", "AutoencoderKL"):
                raise BadInput(f"autoencoder {self.name!r} is a {kind}: use a VQModel or an AutoencoderKL")
            model = getattr(diffusers, kind).from_pretrained(
                self.name, subfolder=self.subfolder, use_safetensors=True, low_cpu_mem_usage=False
            )
        except BadInput:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            there = Path(self.name).exists()
            raise BadInput(
                f"autoencoder {self.name!r} {'is no' if there else 'cannot be fetched, and is no'} folder with "
                "config.json and diffusion_pytorch_model.safetensors: give such a folder"
                + ("" if self.subfolder or not there else ", or its subfolder")
                + ("" if there else ", or the name of an entry of the hub that has both, with a connection")
            ) from error
        return LatentSpace(model, self.gain)
