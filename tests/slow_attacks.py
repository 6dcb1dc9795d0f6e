# SPDX-License-Identifier: Apache-2.0
"""The attacks as plain loops over images, in float64: what the batched ones are held against."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def tiny_model(seed=0, classes=5, channels=2, size=6, norm=True):
    """A small network with batch norm whose statistics are not the initial ones, in float64."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * size * size, classes)).double()
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(16, channels, size, size, dtype=torch.float64))
    return model.eval()


def some_images(count=24, channels=2, size=6, classes=5, seed=1):
    """Images with the labels that `tiny_model` gives them, but for the last quarter, which it gets wrong."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, channels, size, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        label = tiny_model(0, classes, channels, size)(image).argmax(1)
    label[-count // 4 :] = (label[-count // 4 :] + 1) % classes
    return image, label


def one_loss(model, x, y, name="ce", natural=None, target=None):
    """Loss of one image (C, H, W), from its definition."""
    z = model(x[None])[0]
    if name == "ce":
        return torch.log(torch.exp(z - z.max()).sum()) + z.max() - z[y]
    others = [z[j] for j in range(len(z)) if j != y]
    biggest = max(others, key=lambda v: float(v.detach()))
    if name == "margin":
        return biggest - z[y]
    ranked = sorted(z, key=lambda v: float(v.detach()), reverse=True)
    if name == "dlr":
        return -(z[y] - biggest) / (ranked[0] - ranked[2])
    if name == "dlr_targeted":
        return -(z[y] - z[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
    if name == "targeted":
        return -F.cross_entropy(z[None], torch.tensor([target]))
    assert name == "kl"
    p, q = natural.softmax(0), z.softmax(0)
    return sum(p[i] * (torch.log(p[i]) - torch.log(q[i])) for i in range(len(z)))


def gradient(model, x, *rest, **more):
    x = x.clone().requires_grad_()
    loss = one_loss(model, x, *rest, **more)
    (g,) = torch.autograd.grad(loss, x)
    return float(loss.detach()), g


def into_ball(x, x0, eps, norm):
    delta = x - x0
    if norm == "linf":
        delta = torch.stack([d.clamp(-eps, eps) for d in delta])
    elif float(delta.pow(2).sum().sqrt()) > eps:
        delta = delta * eps / delta.pow(2).sum().sqrt()
    return (x0 + delta).clamp(0, 1)


def uphill(g, norm):
    length = float(g.pow(2).sum().sqrt())
    return torch.sign(g) if norm == "linf" or not length else g / length  # the sign of nothing is nothing


def is_fooled(model, x, y):
    with torch.no_grad():
        return int(model(x[None])[0].argmax()) != int(y)


def pgd(model, x0, y, start, eps, steps, step, norm="linf", loss="ce", keep="worst", **more):
    """One image. "worst": misclassified iterates first, then the larger loss; the first of equals."""
    x, seen = start.clone(), []
    for _ in range(steps):
        value, g = gradient(model, x, y, loss, **more)
        seen.append((is_fooled(model, x, y), value, x))
        x = into_ball(x + step * uphill(g, norm), x0, eps, norm)
    if keep == "last":
        return x
    seen.append((is_fooled(model, x, y), gradient(model, x, y, loss, **more)[0], x))
    return max(seen, key=lambda s: s[:2])[2]


def apgd(model, x0, y, start, eps, steps, norm="linf", loss="ce", target=None):
    """Algorithm 1 of Croce and Hein for one image, its conditions read off the whole history; ends once it is wrong."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = sorted({math.ceil(round(share * steps, 9)) for share in p if share < 1})
    more = {"target": target} if target is not None else {}

    def f(x):
        return gradient(model, x, y, loss, **more)

    eta, x_before, x = 2 * eps, start, start
    value, g = f(x)
    best = (value, x, g)
    seen = [(is_fooled(model, x, y), value, x)]
    pairs, etas, bests = [], [], [value]  # loss before and after each step, step sizes, best loss after each step
    for k in range(steps):
        if seen[-1][0]:
            break
        z = into_ball(x + eta * uphill(g, norm), x0, eps, norm)
        new = z if k == 0 else into_ball(x + 0.75 * (z - x) + 0.25 * (x - x_before), x0, eps, norm)
        new_value, g = f(new)
        pairs.append((value, new_value))
        etas.append(eta)
        x_before, x, value = x, new, new_value
        best = max(best, (value, x, g), key=lambda b: b[0])
        bests.append(best[0])
        seen.append((is_fooled(model, x, y), value, x))
        if k + 1 in w:
            then, now = w[w.index(k + 1) - 1], k + 1
            rises = sum(after > before for before, after in pairs[then:now])
            same_eta = then == 0 or etas[then] == etas[then - 1]
            if rises < 0.75 * (now - then) or (same_eta and bests[now] == bests[then]):
                eta /= 2
                value, x, g = best
    return max(seen, key=lambda s: s[:2])[2]


def sa_pgd(model, x0, y, rho, eps_max, tau, inner, alpha, start=None, start_eps=0.0):
    """Algorithm 1 of SAAT for one image, as it is written. Gives the image and the budget that it was moved within."""
    x, eps, used = (x0 if start is None else start).clone(), start_eps, start_eps if start is not None else 0.0
    if gradient(model, x, y)[0] >= rho:
        return x, used
    while eps < eps_max - 1e-12:
        eps = min(eps + tau, eps_max)
        for _ in range(inner):
            _, g = gradient(model, x, y)
            x = into_ball(x + alpha * torch.sign(g), x0, eps, "linf")
            used = eps
            if gradient(model, x, y)[0] >= rho:
                return x, used
    return x, used
