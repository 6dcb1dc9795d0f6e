# SPDX-License-Identifier: Apache-2.0
"""How the scores of a video's frames or clips become one."""

from __future__ import annotations

from typing import Literal

import numpy as np

Pooling = Literal["log_odds", "mean"]


def video_score(scores: np.ndarray, pooling: Pooling = "log_odds") -> float:
    """One score for the frames or clips of a video: (n,) in [0, 1] -> a number in [0, 1].

    "log_odds" is the mean of their log odds, "mean" the mean of the scores themselves.
    """
    if pooling == "mean":
        return float(scores.mean())
    odds = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(1 / (1 + np.exp(-np.mean(np.log(odds / (1 - odds))))))
