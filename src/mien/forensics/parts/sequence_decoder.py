# SPDX-License-Identifier: Apache-2.0
"""Multi-collaboration over permutations: one decoder that reads off a list of edits forwards and backwards.

Tokens: 0 start (and "nothing" in lists), 1 .. 5 regions, 6 end, 7 padding. A list of n regions is trained as the string
start, regions, end, padding, of length 7; backwards the regions come last one first. Input are the first six tokens
with the end as padding, target are the last six, padding left out. The two directions share all weights but a vector
that is added to every token. At step t

    z_t = decoder_t + b R_t              b learned, from 0; R_t = R, and 0 where a region was emitted before step t

with R the order-free presence logits (`mien.forensics.parts.collaboration`). Without that zero the presence would push
the decoder to repeat itself. One branch answers which, two answer in what order. b starts at 0: from 1, R says which
regions there are before the decoder has looked at any, and with nothing else to gain there it was slow to find their
order.

Cross-attention has the learned Gaussian prior of SeqFakeFormer (Shao, Wu, Liu, ECCV 2022) added to its logits,

    -((p - c)' diag(s^2) (p - c)) / 4          c = reference point + offset of the head, s from the query

with places in cells of an 8 x 8 grid. Without scales, presence and backward reading this is SeqFakeFormer's decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.forensics.parts.collaboration import HEADS, Collaboration, Presence
from mien.forensics.parts.pyramid import Pyramid
from mien.forensics.readers.seq_deepfake import LONGEST
from mien.nn.network import Network

START, END, PAD, VOCABULARY = 0, LONGEST + 1, LONGEST + 2, LONGEST + 3
GRID = 8.0
SCALE = 0.5
"""First s of the prior: a Gaussian of standard deviation sqrt(2) / s, almost three cells."""


# --- lists and strings ----------------------------------------------------------------------------------------
def reversed_lists(sequence: Tensor) -> Tensor:
    """Lists (B, 5) with their regions in reverse order, padding still at the end.

    >>> reversed_lists(torch.tensor([[3, 1, 4, 0, 0]]))
    tensor([[4, 1, 3, 0, 0]])
    """
    source = (sequence != 0).sum(dim=1, keepdim=True) - 1 - torch.arange(LONGEST, device=sequence.device)
    return torch.where(source >= 0, sequence.gather(1, source.clamp_min(0)), 0)


def strings(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target of lists (B, 5), each (B, 6).

    >>> strings(torch.tensor([[3, 1, 0, 0, 0]]))
    (tensor([[0, 3, 1, 7, 7, 7]]), tensor([[3, 1, 6, 7, 7, 7]]))
    """
    padded = torch.where(sequence != 0, sequence, PAD)
    start = torch.full_like(sequence[:, :1], START)
    given = torch.cat([start, padded], dim=1)  # the end is padding here, so it need not be written
    length = (sequence != 0).sum(dim=1, keepdim=True)
    target = torch.cat([padded, torch.full_like(start, PAD)], dim=1).scatter(1, length, END)
    return given, target


def unmentioned(given: Tensor) -> Tensor:
    """Whether region 1 .. 5 was not emitted before step t, (B, T, 5), from the input tokens (B, T)."""
    return F.one_hot(given, VOCABULARY)[:, :, 1 : LONGEST + 1].cumsum(dim=1) == 0


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, T, 8) over the targets (B, T) that are no padding; 0 for B = 0."""
    total = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum")
    return total / (target != PAD).sum().clamp_min(1)


# --- the decoder ----------------------------------------------------------------------------------------------
class GaussianPrior(nn.Module):
    """What is added to the logits of cross-attention, from the queries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reference = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.offset, self.sharpness = nn.Linear(width, 2 * HEADS), nn.Linear(width, 2 * HEADS)
        for layer, bias in ((self.offset, 0.0), (self.sharpness, SCALE)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, query: Tensor, places: Tensor) -> Tensor:
        """Queries (B, T, d) and places (S, 2) in [0, 1] to (B, heads, T, S), at most 0."""
        reference = GRID * self.reference(query).sigmoid()[:, :, None]
        centre = reference + self.offset(query).unflatten(-1, (HEADS, 2))
        sharp = self.sharpness(query).unflatten(-1, (HEADS, 2))
        away = (GRID * places - centre[:, :, :, None]) * sharp[:, :, :, None]
        return -away.square().sum(dim=-1).transpose(1, 2) / 4


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention with the prior, feed-forward; LN before each, dropout after each."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.prior = GaussianPrior(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor) -> Tensor:
        """(B, T, d) to the same."""
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        seen = self.norm_self(x)
        x = x + self.dropout(self.self_attention(seen, seen, seen, attn_mask=later, need_weights=False)[0])
        query = self.norm_cross(x)
        prior = self.prior(query, places).flatten(0, 1)
        x = x + self.dropout(self.cross_attention(query, memory, memory, attn_mask=prior, need_weights=False)[0])
        return x + self.dropout(self.feed(self.norm_feed(x)))


class SequenceDecoder(nn.Module):
    """Logits (B, T, 8) of the tokens that follow each prefix of the input (B, T)."""

    def __init__(self, width: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(LONGEST + 1, width)
        # As large as the tokens' vectors: the directions ask for opposite orders, and while the decoder cannot tell
        # them apart, the best that it can do is to give both no order at all.
        self.direction = nn.Parameter(torch.randn(2, width))
        self.layers = nn.ModuleList(DecoderLayer(width, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        wide = 2 * width
        self.head = nn.Sequential(
            nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, VOCABULARY)
        )

    def forward(self, given: Tensor, memory: Tensor, places: Tensor, *, backward: bool) -> Tensor:
        """Without the presence."""
        steps = torch.arange(given.shape[1], device=given.device)
        x = self.token(given) + self.position(steps) + self.direction[int(backward)]
        for layer in self.layers:
            x = layer(x, memory, places)
        return self.head(self.norm(x))


@dataclass
class Read:
    """What was read off images.

    Args:
        maps: C2 to C5.
        memory: M, (B, N, d).
        presence: R, (B, 5), or None where there is no presence branch.
    """

    maps: list[Tensor]
    memory: Tensor
    presence: Tensor | None


class SequenceDetector(nn.Module):
    """Image to memory, presence and the logits of a list in both directions.

    Args:
        network: Backbone.
        image_size: Height and width of the images.
        scales: Which of C3, C4, C5 are read.
        presence: Whether there is a presence branch.
        backward: Whether lists are also read backwards.
        width: d.
        hidden: Width of the feed-forward parts.
        encoder_layers: Within each scale.
        decoder_layers: Of the decoder.
        dropout: In [0, 1).
    """

    def __init__(
        self,
        network: Network,
        image_size: int,
        *,
        scales: Sequence[int],
        presence: bool,
        backward: bool,
        width: int,
        hidden: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.taps = [scale - 2 for scale in scales]
        self.directions = (False, True) if backward else (False,)
        self.backbone = Pyramid(network, image_size)
        self.collaboration = Collaboration(
            [self.backbone.channels[i] for i in self.taps],
            [image_size // self.backbone.strides[i] for i in self.taps],
            width=width,
            hidden=hidden,
            layers=encoder_layers,
            dropout=dropout,
            pooled=3 in scales and len(scales) > 1,
        )
        self.presence = Presence(width, LONGEST, dropout) if presence else None
        self.balance = nn.Parameter(torch.zeros(())) if presence else None
        self.decoder = SequenceDecoder(width, hidden, decoder_layers, dropout)

    def forward(self, image: Tensor) -> Read:
        """Read images (B, 3, H, W) in [0, 1]."""
        maps = self.backbone(image)
        memory = self.collaboration([maps[i] for i in self.taps])
        return Read(maps, memory, None if self.presence is None else self.presence(memory))

    def logits(self, read: Read, given: Tensor, *, backward: bool = False) -> Tensor:
        """z, (B, T, 8), of the input tokens (B, T)."""
        z = self.decoder(given, read.memory, self.collaboration.places, backward=backward)
        if read.presence is None:
            return z
        assert self.balance is not None
        term = self.balance * read.presence[:, None] * unmentioned(given)
        return z + F.pad(term, (1, VOCABULARY - LONGEST - 1))

    def sequence_losses(self, read: Read, sequence: Tensor) -> dict[str, Tensor]:
        """The cross-entropy of each direction for lists (B, 5)."""
        losses = {}
        for backward in self.directions:
            given, target = strings(reversed_lists(sequence) if backward else sequence)
            losses["backward" if backward else "forward"] = token_loss(
                self.logits(read, given, backward=backward), target
            )
        return losses

    # --- reading a list off -----------------------------------------------------------------------------------
    def edited_odds(self, read: Read) -> Tensor:
        """Log odds of "something was edited", (B,): that the first token is a region; the mean of the directions."""
        start = torch.full((len(read.memory), 1), START, device=read.memory.device)
        first = [self.logits(read, start, backward=b)[:, 0] for b in self.directions]
        odds = [z[:, 1:END].logsumexp(dim=1) - z[:, END] for z in first]
        return torch.stack(odds).mean(dim=0)

    def greedy(self, read: Read, *, backward: bool = False) -> Tensor:
        """The list of each image by its likeliest next token, until the end or five regions, (B, 5).

        Start and padding are never chosen. Every image ends on its own: what the others do plays no part. A backward
        list is given in the order in which it was read, last edit first.
        """
        count = len(read.memory)
        tokens = torch.full((count, LONGEST + 1), PAD, device=read.memory.device)
        tokens[:, 0] = START
        ended = torch.zeros(count, dtype=torch.bool, device=tokens.device)
        for t in range(LONGEST):
            if bool(ended.all()):
                break
            z = self.logits(read, tokens[:, : t + 1], backward=backward)[:, -1]
            best = z[:, 1 : END + 1].argmax(dim=1) + 1
            ended = ended | (best == END)
            tokens[:, t + 1] = torch.where(ended, PAD, best)
        return torch.where(tokens[:, 1:] == PAD, 0, tokens[:, 1:])

    def log_probability(self, read: Read, sequence: Tensor, *, backward: bool = False) -> Tensor:
        """Log probability of lists (B, 5) with their end, (B,), among the tokens that can be chosen: 1 .. 6.

        `sequence` is in the order of the edits, for both directions.
        """
        given, target = strings(reversed_lists(sequence) if backward else sequence)
        log_p = self.logits(read, given, backward=backward)[:, :, 1 : END + 1].log_softmax(dim=-1)
        counted = target != PAD
        chosen = log_p.gather(2, (torch.where(counted, target, END) - 1)[:, :, None])[:, :, 0]
        return (chosen * counted).sum(dim=1)

    def sequences(self, read: Read) -> Tensor:
        """The edits of each image in order, (B, 5), 0 after the last.

        With both directions each proposes a list, and the empty list is a third; the one whose log probability, summed
        over both directions, is highest is taken. Each direction's own sum would favour short lists. Ties go to the
        forward list.
        """
        forward = self.greedy(read)
        if len(self.directions) == 1:
            return forward
        best, likely = forward, self._both(read, forward)
        for other in (reversed_lists(self.greedy(read, backward=True)), torch.zeros_like(forward)):
            log_p = self._both(read, other)
            best = torch.where((log_p > likely)[:, None], other, best)
            likely = torch.maximum(likely, log_p)
        return best

    def _both(self, read: Read, sequence: Tensor) -> Tensor:
        return self.log_probability(read, sequence) + self.log_probability(read, sequence, backward=True)
