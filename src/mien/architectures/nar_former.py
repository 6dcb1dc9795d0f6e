# SPDX-License-Identifier: Apache-2.0
"""NAR-Former: Neural Architecture Representation Learning towards Holistic Attributes Prediction.

Yi, Zhang, Hu, Wang, Wang, CVPR 2023, arXiv 2211.08024.

A network's operators and wiring become one token sequence; a transformer compresses it stage by stage into one vector,
from which an accuracy or a latency is read. Few labelled architectures go further, since nodes may be listed in another
legal order without changing the network: such twins are trained on, too, and must get the same prediction.

    tokens   [PE(op); PE(position); sum of PE(predecessors)], an END token, a depth token  (mien.architectures.encoding)
    vector   multi-stage fusion transformer, stages of 6, 1, 1, 1 blocks                     (mien.architectures.fusion)
    twin     A' = P A P^T, ops' = P ops, first and last node fixed, A' strictly upper triangular    (information flow)
    L        = MSE(p, y) + 0.1 L_rank + 0.5 L_con
    L_rank   = mean |(p_i - p_pi(i)) - (y_i - y_pi(i))|, one random pairing pi
    L_con    = mean |f(a) - f(a')|

MSE and L_rank act on originals and twins together, which share one forward pass. A cell ends in a sigmoid; a whole
network's vector is joined by the codes of batch size, FLOPs, parameters and memory access, and ends in an MLP.

Differences from the paper
    * Codes have exact phases, in double precision; `precision="float32"` is the released code's. Whole networks take
      "trans" codes, since "nerf" codes of 32 frequencies have the period 62: 2 and 64 channels would look alike.
      `code="nerf"` gives the paper's.
    * Cells of one batch have one size (the paper's bucket sampler). Whole networks of one size are rare; their batches
      are mixed and run size by size, so that nothing is padded there either.
    * Training cells are drawn by the seed, not the first of the file, and never from the part kept for testing. The
      checkpoint is chosen among averaged weights only.
    * The paper preset makes 4000 passes on all data, as the paper does on NAS-Bench-201; on NAS-Bench-101 the paper
      makes 6000: `--epochs 6000`.
    * Values outside [0, 1] are scaled (`mien.architectures.predictor`); several targets may share the network.
    * Inferred: a whole network has no END token and its depth token comes last; the transformer of whole networks has
      as many layers as that of cells; a twin is kept when operators or wiring differ.
    * `augmentation="random"` draws any legal order in every step. The released code only ever swaps the last two
      interior nodes: `"swap"`.

Example:
    >>> from mien.architectures.cells import parse_201
    >>> cell = parse_201("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|")
    >>> method = NARFormer(frequencies=6, layers=1)
    >>> method.predict(Architecture([cell], torch.tensor([[0.9]]))).value.shape
    torch.Size([1, 1])
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mien.architectures.data import Architecture
from mien.architectures.encoding import (
    CodeKind,
    CodePrecision,
    Codes,
    StaticScale,
    end_token,
    node_tokens,
    static_codes,
    token_width,
)
from mien.architectures.fusion import FusionTransformer
from mien.architectures.graph import Graph, Graphs, differs, is_legal, last_swap, permuted, random_order
from mien.architectures.predictor import NoneEdges, Predictor, Scaling
from mien.engine import Phase
from mien.engine.method import Losses, Optimizers
from mien.errors import BadInput
from mien.optim.recipe import Recipe

Augmentation = Literal["swap", "random", "none"]


def ranking_loss(predicted: Tensor, target: Tensor, order: Tensor) -> Tensor:
    """L_rank of (N, T) under a pairing `order`, a permutation (N,). N = 0 gives a zero connected to `predicted`.

    >>> ranking_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]), torch.tensor([1, 0]))
    tensor(2.)
    """
    return mean((predicted - predicted[order]) - (target - target[order]), absolute=True)


def mean(difference: Tensor, *, absolute: bool) -> Tensor:
    """Mean of absolute or squared differences; of none at all a zero connected to them."""
    return (difference.abs() if absolute else difference.square()).sum() / max(difference.numel(), 1)


def twins(graphs: Graphs, augmentation: Augmentation, generator: np.random.Generator) -> dict[int, Graph]:
    """Information-flow-consistent twins: number of the graph -> the same network with its nodes in another legal order.

    A graph without such an order, or to which it makes no difference, has none.
    """
    if augmentation == "none" or not len(graphs):
        return {}
    position = last_swap(graphs) if augmentation == "swap" else random_order(graphs, generator)
    other = permuted(graphs, position)
    rows = np.flatnonzero(is_legal(graphs, position) & differs(graphs, other))
    return {int(row): other[int(row)] for row in rows}


class NARFormer(Predictor):
    """NAR-Former: tokenizer, multi-stage fusion transformer, consistent augmentation.

    Args:
        space: Space of the graphs, a key of `mien.architectures.operators.SPACES`; None for that of the data.
        target: Name of the value to predict, or several with commas between them; None for the data's first.
        scaling: How outputs stand for values: "none", "unit", "log" or "mixed"; None for "none" where all training
            values lie in [0, 1], else "log" for whole networks and "unit" for cells.
        train_size: Architectures to train on where a table holds a whole search space; None for the space's usual.
        leave_out: Family of networks that is not trained on but tested on; None for none.
        none_edges: Whether operators "none" of NAS-Bench-201 are nodes, or absent: then wiring and length vary.
        optimizer: How it is trained; biases are not decayed.
        warmup: Share of the updates over which the learning rate rises, in [0, 1).
        frequencies: F: tokens have 6F numbers, those of whole networks 30F.
        code: "nerf" or "trans"; None for nerf with cells and trans with whole networks.
        precision: Of the codes; float32 is what the released code computes in.
        static: How batch size, FLOPs, parameters and memory access of whole networks are encoded: "linear" in units of
            1e9 (paper) or "log", which tells small networks apart.
        layers: Blocks of stage 0.
        queries: Learnt queries of each fusion stage; none at all is a plain transformer that reads its last token.
        heads: Heads of every attention; they divide the tokens' numbers.
        dropout: Of attention weights and inside feed-forward parts, in [0, 1).
        augmentation: Twins: "swap" (the released code), "random" legal orders, or "none".
        consistency_weight: Of L_con.
        ranking_weight: Of L_rank.
        average: Decay of the average of the weights that is evaluated and saved; 0 for none.
    """

    name = "nar-former"

    def __init__(
        self,
        *,
        space: str | None = None,
        target: str | None = None,
        scaling: Scaling | None = None,
        train_size: int | None = None,
        leave_out: str | None = None,
        none_edges: NoneEdges = "operation",
        optimizer: Recipe = Recipe(lr=1e-4, schedule="linear", decay_from=0.0),
        warmup: float = 0.1,
        frequencies: int = 32,
        code: CodeKind | None = None,
        precision: CodePrecision = "float64",
        static: StaticScale = "linear",
        layers: int = 6,
        queries: tuple[int, ...] = (4, 2, 1),
        heads: int = 6,
        dropout: float = 0.1,
        augmentation: Augmentation = "swap",
        consistency_weight: float = 0.5,
        ranking_weight: float = 0.1,
        average: float = 0.99,
    ) -> None:
        super().__init__(
            space=space,
            target=target,
            scaling=scaling,
            train_size=train_size,
            leave_out=leave_out,
            none_edges=none_edges,
            optimizer=optimizer,
        )
        self.codes = Codes(frequencies, code or ("trans" if self.whole else "nerf"), precision)
        width = token_width(self.codes, self.whole)
        if heads < 1 or width % heads:
            raise BadInput(f"heads is {heads}: it must divide the {width} numbers of a token")
        if layers < 1 or any(count < 1 for count in queries):
            raise BadInput(f"layers is {layers} and queries is {queries}: each must be at least 1")
        for label, value, below in (("warmup", warmup, 1), ("dropout", dropout, 1), ("average", average, 1)):
            if not 0 <= value < below:
                raise BadInput(f"{label} is {value}: it must lie in [0, 1)")
        if augmentation not in ("swap", "random", "none"):
            raise BadInput(f"augmentation is {augmentation!r}: use swap, random or none")
        if static not in ("linear", "log"):
            raise BadInput(f"static is {static!r}: use linear or log")
        if consistency_weight < 0 or ranking_weight < 0:
            raise BadInput(f"weights of losses are {consistency_weight} and {ranking_weight}: they must be 0 or more")
        self.warmup, self.frequencies, self.code, self.precision = warmup, frequencies, code, precision
        self.layers, self.queries, self.heads, self.dropout = layers, tuple(queries), heads, dropout
        self.augmentation, self.consistency_weight, self.ranking_weight = (
            augmentation,
            consistency_weight,
            ranking_weight,
        )
        self.average, self.static = average, static
        self.depth_codes = Codes(width // 2, "trans" if self.whole else "nerf", precision)
        self.depth_map = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.transformer = FusionTransformer(width, layers, heads, self.queries, dropout)
        self.head = self._head(width)

    def _head(self, width: int) -> nn.Module:
        if not self.whole:
            return nn.Sequential(nn.Linear(width, len(self.targets)), nn.Sigmoid())
        joined = width + 4 * self.codes.width
        sizes = [joined, joined // 2, joined // 4, joined // 8]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], len(self.targets)))

    # --- the network ------------------------------------------------------------------------------------------
    def vectors(self, graphs: Graphs) -> Tensor:
        """The architecture vectors, (B, d). Graphs of one size make one pass; nothing is padded."""
        device = self.device
        tokens = node_tokens(graphs, self.codes).to(device)
        length = torch.from_numpy(graphs.length)
        start = torch.from_numpy(graphs.start[:-1])
        sizes = length.unique().tolist() or [1]  # an empty batch passes, too, and stays connected to the weights
        rows = [(length == size).nonzero()[:, 0] for size in sizes]
        found = []
        for size, members in zip(sizes, rows, strict=True):
            nodes = (start[members][:, None] + torch.arange(size)).to(device)
            found.append(self.transformer(self._sequence(tokens[nodes], size)))
        return torch.cat(found)[torch.cat(rows).argsort().to(device)]

    def _sequence(self, tokens: Tensor, size: int) -> Tensor:
        """Depth token, nodes, END; for whole networks nodes, depth token."""
        many = (len(tokens), 1, -1)
        depth = self.depth_map(self.depth_codes(torch.tensor(size)).float().to(tokens.device)).expand(many)
        if self.whole:
            return torch.cat([tokens, depth], dim=1)
        end = end_token(self.codes).float().to(tokens.device).expand(many)
        return torch.cat([depth, tokens, end], dim=1)

    def outputs(self, graphs: Graphs) -> Tensor:
        """U of every graph, (B, T)."""
        vector = self.vectors(graphs)
        if self.whole:
            vector = torch.cat([vector, static_codes(graphs, self.codes, self.static).float().to(vector.device)], dim=1)
        return self.head(vector)

    # --- training ---------------------------------------------------------------------------------------------
    def losses(self, batch: Architecture) -> Losses:
        """MSE, ranking and consistency of the batch and its twins."""
        assert isinstance(batch.graph, list)
        graphs = self.batch_graphs(batch)
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        pairs = twins(graphs, self.augmentation, generator)
        rows = torch.tensor(list(pairs), dtype=torch.long, device=self.device)
        output = self.outputs(Graphs.of([*batch.graph, *pairs.values()], self.space_name))
        target = self.to_output(batch.value)
        target = torch.cat([target, target[rows]])
        order = torch.randperm(len(output)).to(output.device)
        original, twin = output[: len(graphs)], output[len(graphs) :]
        gap = (original[rows] - twin).abs().sum() / max(original.numel(), 1)  # one without a twin is its own
        return {
            "squared_error": mean(output - target, absolute=False),
            "ranking": self.ranking_weight * ranking_loss(output, target, order),
            "consistency": self.consistency_weight * gap,
        }

    def optimizers(self, phase: Phase) -> Optimizers:
        """AdamW without decay of biases; warm-up, then linear to 0."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        optimizer = self.optimizer.optimizer([p for name, p in named if not name.endswith("bias")])
        biases = [p for name, p in named if name.endswith("bias")]
        optimizer.add_param_group({"params": biases, "weight_decay": 0.0})
        recipe = replace(self.optimizer, warmup_steps=round(self.warmup * phase.total_steps))
        return {"main": recipe.scheduled(optimizer, phase.total_steps)}
