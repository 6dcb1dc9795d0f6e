# SPDX-License-Identifier: Apache-2.0
"""Where restoration happens: in pixels, or in the latents of a frozen autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mien.errors import BadInput


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
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        config = model.config
        self.colours, self.channels = int(config.in_channels), int(config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.gain = float(getattr(config, "scaling_factor", None) or 1.0)

    def train(self, mode: bool = True) -> LatentSpace:
        """Always in eval mode."""
        return super().train(False)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to latents (B, c, H / factor, W / factor)."""
        found = self.model.encode(image * 2 - 1)
        latent = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
        return latent * self.gain

    def decode(self, latent: Tensor) -> Tensor:
        """Back to [0, 1], clamped."""
        return ((self.model.decode(latent / self.gain).sample + 1) / 2).clamp(0, 1)


Space = PixelSpace | LatentSpace


@dataclass(frozen=True)
class Autoencoder:
    """Which space. Plain data, for the command line and config.json.

    Args:
        name: "pixel"; or a folder, or a name on the hub, that holds a VQModel or AutoencoderKL of diffusers.
        colours: Channels of images in pixel space: 3, or 1 for grey.
        subfolder: Where in the folder or hub entry the autoencoder lies, as in pipelines ("vqvae", "vae").
    """

    name: str = "pixel"
    colours: int = 3
    subfolder: str | None = None

    def __post_init__(self) -> None:
        if self.colours not in (1, 3):
            raise BadInput(f"autoencoder.colours is {self.colours}: use 3, or 1 for grey")

    def build(self) -> Space:
        """The space.

        Raises:
            BadInput: The extra is missing, the files are not there and cannot be fetched, or hold something else.
        """
        if self.name == "pixel":
            return PixelSpace(self.colours)
        try:
            import diffusers
        except ImportError as error:
            raise BadInput("autoencoder: latents need the extra 'diffusion': pip install 'mien[diffusion]'") from error
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
            where = "is no folder of an autoencoder" if Path(self.name).exists() else "cannot be fetched"
            raise BadInput(
                f"autoencoder {self.name!r} {where}: give a folder with config.json and "
                "diffusion_pytorch_model.safetensors, or a name on the hub with a connection"
            ) from error
        return LatentSpace(model)
