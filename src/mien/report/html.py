# SPDX-License-Identifier: Apache-2.0
"""One HTML page that needs nothing else: no script, no outside address, pictures inside, readable on a phone.

Whatever is put on the page is text and is escaped; markup is written here and nowhere else. The page follows the
reader's choice of light or dark, pictures included, and a content policy inside it forbids the browser to load
anything.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mien.errors import BadInput
from mien.files import write_text
from mien.metrics.intervals import Interval
from mien.report.style import DARK, LIGHT, STYLESHEET, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | bool | Interval | None


@dataclass(frozen=True)
class Tile:
    """A figure that a reader should see first.

    Args:
        label: What it is: "AUC on unseen forgeries".
        value: The number; an interval is shown with its bounds below.
        detail: A short line below it.
    """

    label: str
    value: Cell
    detail: str = ""


def cell_text(value: Cell) -> str:
    """How a value is written: three decimals for fractions, a dash for what does not exist.

    >>> cell_text(0.98765), cell_text(12), cell_text(None), cell_text(2.5e-7), cell_text(1234.5)
    ('0.988', '12', '–', '2.5e-07', '1234.5')
    """
    if isinstance(value, Interval):
        return str(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != 0 and not 1e-3 <= abs(value) < 1e6:
            return f"{value:.3g}"
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


class Page:
    """A page that is built from top to bottom.

    Args:
        title: Heading and window title.
        subtitle: One line below it: what was run, on what, when.
        lang: Language of the text, as in the HTML attribute.
    """

    def __init__(self, title: str, *, subtitle: str = "", lang: str = "en") -> None:
        self.title, self.subtitle, self.lang = title, subtitle, lang
        self._parts: list[str] = []
        self._headings: list[str] = []

    def section(self, heading: str) -> None:
        """Start a section; everything up to the next one belongs to it."""
        if self._headings:
            self._parts.append("</section>")
        self._headings.append(heading)
        name = f"s{len(self._headings)}"
        self._parts.append(f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(heading)}</h2>')

    def heading(self, text: str) -> None:
        """A smaller heading inside a section."""
        self._parts.append(f"<h3>{html.escape(text)}</h3>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def note(self, text: str, kind: Literal["note", "warning"] = "note") -> None:
        """A boxed remark that must not be overlooked."""
        if kind not in ("note", "warning"):
            raise BadInput(f"kind is {kind!r}: use note or warning")
        label = "Warning" if kind == "warning" else "Note"
        self._parts.append(f'<p class="box {kind}" role="note"><strong>{label}.</strong> {html.escape(text)}</p>')

    def tiles(self, tiles: Sequence[Tile]) -> None:
        """Large figures side by side."""
        items = []
        for tile in tiles:
            value, below = cell_text(tile.value), ""
            if isinstance(tile.value, Interval) and tile.value.exists:
                value = f"{tile.value.value:.3f}"
                percent = f"{100 * tile.value.level:g}"
                below = f'<span class="bounds">{percent} %: {tile.value.low:.3f} to {tile.value.high:.3f}</span>'
            detail = f'<span class="detail">{html.escape(tile.detail)}</span>' if tile.detail else ""
            items.append(
                f"<div><dt>{html.escape(tile.label)}</dt><dd><b>{html.escape(value)}</b>{below}{detail}</dd></div>"
            )
        self._parts.append(f'<dl class="tiles">{"".join(items)}</dl>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str) -> None:
        """A table; its first column names the rows. Raises BadInput when a row has another length than the header."""
        wrong = next((row for row in rows if len(row) != len(header)), None)
        if wrong is not None:
            raise BadInput(f"a row of table {caption!r} has {len(wrong)} cells: the header has {len(header)}")
        numeric = [
            any(isinstance(row[i], (int, float, Interval)) and not isinstance(row[i], bool) for row in rows)
            for i in range(len(header))
        ]
        style = ['class="number"' if number else "" for number in numeric]
        head = "".join(f'<th scope="col" {s}>{html.escape(name)}</th>' for name, s in zip(header, style, strict=True))
        body = []
        for row in rows:
            first, *others = (html.escape(cell_text(value)) for value in row)
            cells = "".join(f"<td {s}>{text}</td>" for text, s in zip(others, style[1:], strict=True))
            body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
        text = html.escape(caption)
        self._parts.append(
            f'<div class="scroll" role="region" tabindex="0" aria-label="{text}"><table><caption>{text}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def picture(self, light: bytes, *, alt: str, caption: str = "", dark: bytes | None = None) -> None:
        """A PNG picture, and the one that readers with a dark screen see instead.

        Args:
            light: PNG file.
            alt: What a reader who cannot see it needs to know; not empty.
            caption: Text below it.
            dark: PNG file for dark screens; None shows `light` on them too.
        """
        if not alt.strip():
            raise BadInput("a picture needs an alt text: say what it shows and what follows from it")
        source = ""
        if dark is not None:
            source = f'<source media="(prefers-color-scheme: dark)" srcset="{_address(dark)}">'
        width, height = _png_size(light)
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><picture>{source}<img src="{_address(light)}" alt="{html.escape(alt)}" '
            f'width="{width // 2}" height="{height // 2}"></picture>{below}</figure>'  # drawn at two dots a pixel
        )

    def plot(self, draw: Callable[[Theme], Figure], *, alt: str, caption: str = "") -> None:
        """A figure without photographs that is drawn twice, for light and for dark screens.

        Args:
            draw: Gives the figure in the colours of a theme.
            alt: As in `picture`.
            caption: As in `picture`.
        """
        from mien.report.plots import png

        light, dark = (png(draw(theme), palette=True) for theme in (LIGHT, DARK))
        self.picture(light, dark=dark, alt=alt, caption=caption)

    @contextmanager
    def row(self) -> Iterator[None]:
        """Pictures added inside stand side by side where the screen is wide enough."""
        self._parts.append('<div class="row">')
        yield
        self._parts.append("</div>")

    def details(self, summary: str, text: str) -> None:
        """Long text (a configuration) that opens on demand."""
        self._parts.append(
            f'<details><summary>{html.escape(summary)}</summary><pre tabindex="0">{html.escape(text)}</pre></details>'
        )

    def html(self) -> str:
        """The whole page."""
        title = html.escape(self.title)
        subtitle = f'<p class="subtitle">{html.escape(self.subtitle)}</p>' if self.subtitle else ""
        links = ""
        if len(self._headings) > 2:
            entries = (f'<li><a href="#s{i}">{html.escape(h)}</a></li>' for i, h in enumerate(self._headings, 1))
            links = f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>'
        end = "</section>" if self._headings else ""
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return (
            f'<!DOCTYPE html>\n<html lang="{html.escape(self.lang)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>{title}</title>\n'
            f"<style>{STYLESHEET}</style>\n</head>\n<body>\n<header><h1>{title}</h1>{subtitle}</header>\n{links}\n"
            f"<main>\n{chr(10).join(self._parts)}\n{end}</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page as one file, whole or not at all."""
        write_text(path, self.html())
        return Path(path)


def _address(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _png_size(picture: bytes) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    if picture[:8] != b"\x89PNG\r\n\x1a\n" or len(picture) < 24:
        raise BadInput("a picture of a report must be a PNG file")
    return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")
