# SPDX-License-Identifier: Apache-2.0
"""How reports look: two themes for pictures and the stylesheet of the page, in the same colours.

The series colours are those of Okabe and Ito, chosen to stay apart for colour-blind readers; on dark ground the dark
ones are lightened. No picture tells series apart by colour alone: lines differ in their dashes, points in their shape.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of a picture, as #rrggbb.

    Args:
        name: "light" or "dark".
        paper: Background.
        ink: Text and axes.
        muted: Secondary text, reference lines.
        grid: Grid lines.
        series: Colours of the series, in order.
    """

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    "light",
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5c6670",
    grid="#e3e6ea",
    series=("#0072b2", "#d55e00", "#009e73", "#a34a86", "#b07800", "#2b8cbf", "#1b1f24"),
)
DARK = Theme(
    "dark",
    paper="#1a1e24",
    ink="#e8eaed",
    muted="#a0a8b2",
    grid="#323943",
    series=("#56b4e9", "#f58a42", "#2fc79a", "#e29ac9", "#f0c04a", "#8fd3f4", "#e8eaed"),
)
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLESHEET = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --muted: #5c6670; --line: #e3e6ea;
  --soft: #f5f7f9; --accent: #0063a0; --warn: #a34500; --warn-soft: #fff4ea; }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1e24; --ink: #e8eaed; --muted: #a0a8b2; --line: #323943;
  --soft: #232930; --accent: #6cbef0; --warn: #f5a163; --warn-soft: #33261b; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 58rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: clamp(1.6rem, 1.2rem + 2vw, 2.2rem); line-height: 1.2; letter-spacing: -0.015em; }
.subtitle { margin: .5rem 0 0; color: var(--muted); max-width: 44rem; }
h2 { margin: 3rem 0 1rem; padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: 1.3rem; line-height: 1.3; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.05rem; }
p { margin: .75rem 0; max-width: 44rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 1.5rem 0 0; padding: 0;
  font-size: .95rem; }
a { color: var(--accent); text-underline-offset: .2em; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible, pre:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.tiles > div { background: var(--soft); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1.1rem; }
.tiles dt { color: var(--muted); font-size: .88rem; line-height: 1.35; }
.tiles dd { margin: .25rem 0 0; }
.tiles b { display: block; font-size: 1.7rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tiles .bounds, .tiles .detail { display: block; font-size: .88rem; color: var(--muted);
  font-variant-numeric: tabular-nums; }
.box { border-left: .3rem solid var(--accent); background: var(--soft); padding: .75rem 1rem; border-radius: .25rem; }
.box.warning { border-color: var(--warn); background: var(--warn-soft); }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; min-width: 60%; font-size: .95rem; overflow-wrap: normal; }
caption { caption-side: top; text-align: left; color: var(--muted); font-size: .9rem; padding-bottom: .5rem; }
th, td { padding: .45rem 1.25rem .45rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; font-size: .85rem; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td:last-child, th:last-child { padding-right: .25rem; }
figure { margin: 1.5rem 0; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 0 1.5rem; }
.row figure { margin: .75rem 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .5rem; color: var(--muted); font-size: .9rem; max-width: 44rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; background: var(--soft); border: 1px solid var(--line); border-radius: .4rem; padding: .9rem 1rem;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: normal; }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } section { break-inside: avoid-page; } }
"""
