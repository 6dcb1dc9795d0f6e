# SPDX-License-Identifier: Apache-2.0
"""A network that follows another one as an exponential moving average, where a method trains with both.

To average weights for evaluation alone, `mien.engine.EMA` is the strategy for any method.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def ema_update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Average <- decay * average + (1 - decay) * network, for all parameters and buffers; integers are copied.

    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(a.weight), nn.init.ones_(b.weight)
    >>> ema_update(a, b, 0.75); float(a.weight)
    0.25
    """
    theirs = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - decay)
        else:
            value.copy_(theirs[name])
