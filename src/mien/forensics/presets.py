# SPDX-License-Identifier: Apache-2.0
"""Sizes of the room's methods: the paper's, and one for a laptop. Methods that are not named here take the room's."""

from __future__ import annotations

from mien.room import Preset

PRESETS: dict[str, dict[str, Preset]] = {
    "pfr-forgery": {
        "paper": Preset(settings={"batch_size": 20}, epochs=100),
        "small": Preset(
            config={
                "network": {"name": "tiny_blocks_highpass"},
                "optimizer": {"lr": 0.1},
                "image_size": 64,
                "ramp": 2,
                "federated": {"local_epochs": 1},
            },
            settings={"batch_size": 32},
            epochs=10,
        ),
    },
    "mesonet": {
        "paper": Preset(settings={"batch_size": 75}, epochs=5),
        "small": Preset(config={"image_size": 64, "optimizer": {"lr": 2e-3}}, settings={"batch_size": 32}, epochs=6),
    },
    "mmnet": {
        "paper": Preset(settings={"batch_size": 32, "clip": 0.1}, epochs=170),
        "small": Preset(
            config={
                "network": {"name": "tiny_pyramid"},
                "image_size": 64,
                "width": 64,
                "hidden": 128,
                "decoder_layers": 1,
                "dropout": 0.0,
                "jitter": False,
                "optimizer": {"lr": 2e-3, "schedule": "cosine"},
                "warmup": 0.05,
                "backbone_rate": 1.0,
                "recovery_width": 8,
                "discriminator": {"scales": 1, "width": 16, "layers": 2},
                "recovery_optimizer": {"lr": 1e-3},
            },
            settings={"batch_size": 16, "clip": 1.0},
            epochs=6,
        ),
    },
    "hfc-mffd": {
        "paper": Preset(settings={"batch_size": 32}, epochs=8),
        "small": Preset(
            config={
                "network": {"name": "tiny_blocks_highpass"},
                "dct_network": {"name": "tiny_blocks"},
                "optimizer": {"lr": 2e-3, "schedule": "cosine"},
                "head_lr": 1.0,
                "balance": "weights",
                "image_size": 64,
                "patch": 32,
                "head": {
                    "heads": 4,
                    "feedforward": 64,
                    "hidden": [128, 64],
                    "patch_hidden": 64,
                    "attention_dropout": 0.1,
                    "dropout": 0.1,
                },
                "landmarks": 17,
                "fusion": {"lr": 0.02, "epochs": 20, "samples": 256},
            },
            settings={"batch_size": 32},
            epochs=3,
        ),
    },
    "fcan-dct": {
        "paper": Preset(settings={"batch_size": 8}, epochs=20),
        "small": Preset(
            config={
                "network": {"name": "tiny_blocks", "normalise": "none"},
                "optimizer": {"lr": 2e-3},
                "image_size": 48,
            },
            settings={"batch_size": 16},
            epochs=2,
        ),
    },
    "gazeforensics": {
        "paper": Preset(settings={"batch_size": 32}, epochs=25),
        "small": Preset(
            config={
                "network": {"name": "tiny_blocks", "normalise": "none"},
                "optimizer": {"lr": 2e-3},
                "cycle_by": "step",
                "teacher_optimizer": {"lr": 2e-3, "schedule": "cosine"},
                "image_size": 48,
                "frames": 8,
                "leaky": 8,
                "width": 64,
                "heads": 2,
                "compression": [32, 16, 8],
                "hidden": [32, 16],
                "view": 1.0,
                "share": 1.0,
                "teacher_epochs": 6,
            },
            settings={"batch_size": 16},
            epochs=2,
        ),
    },
    "fedforgery": {
        "paper": Preset(settings={"batch_size": 20}, epochs=100),
        "small": Preset(
            config={
                "network": {"name": "tiny_blocks"},
                "optimizer": {"lr": 0.1},
                "image_size": 64,
                "width": 16,
                "codes": 32,
                "reconstruction": 5.0,
                "classification": 1.0,
                "commitment": 1.25,
                "federated": {"local_epochs": 1},
            },
            settings={"batch_size": 16},
            epochs=10,
        ),
    },
}
"""Presets of methods that differ from the room's: name -> preset."""
