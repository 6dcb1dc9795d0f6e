# SPDX-License-Identifier: Apache-2.0
"""`mien restore PHOTO --weights RUN --out FILE`: a photograph as it may have been, tile by tile."""

from __future__ import annotations

import time
from pathlib import Path

from mien.commands._parser import Parser, positive, set_threads
from mien.errors import BadInput


def run(arguments: list[str]) -> int:
    """Restore one photograph into a PNG file; memory does not grow with the result."""
    parser = Parser("restore", "Enlarge and restore a photograph of any size, in tiles without seams.")
    parser.add_argument("photo", metavar="PHOTO", help="JPEG, PNG, WebP, BMP or TIFF; its metadata are left behind")
    parser.add_argument("--weights", metavar="RUN", help="a run folder or a saved folder of the restoration family")
    parser.add_argument("--out", metavar="FILE", help="the result, a PNG file (PHOTO-xN.png beside the photograph)")
    parser.add_argument("--scale", type=positive, metavar="N", help="how many times as large (the model's own)")
    parser.add_argument("--tile", type=positive, default=512, metavar="N", help="side of a tile in result pixels")
    parser.add_argument(
        "--margin", type=positive, metavar="N", help="result pixels around a tile (as far as the network looks)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (as torch chooses)")
    parser.add_argument("--dry-run", action="store_true", help="sizes, and how long it would take, from one tile")
    given = parser.read(arguments)
    set_threads(given.threads)
    if given.weights is None:
        raise BadInput(
            "--weights is missing: tad-sr comes without trained weights, train it first "
            "(mien train tad-sr --data DIR), then give the run folder"
        )

    import numpy as np

    from mien.commands._apply import say
    from mien.data.images import open_image
    from mien.data.png_strips import PNGStrips
    from mien.engine.ranks import choose_device
    from mien.files import whole_file
    from mien.progress import Progress
    from mien.restoration.room import LIMITS, restorer
    from mien.restoration.tiles import fitted_tiles, strips, tile_count
    from mien.weights import open_weights

    picture = np.asarray(open_image(given.photo))
    opened = open_weights(given.weights, choose_device(given.device))
    method = restorer(opened.method)
    if given.scale not in (None, method.scale):
        raise BadInput(f"--scale is {given.scale}: {given.weights} was trained for {method.scale}")
    photo = Path(given.photo)
    out = Path(given.out) if given.out is not None else photo.with_name(f"{photo.stem}-x{method.scale}.png")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise BadInput(f"--out: {out} must be a file that ends in .png")
    if out.exists() and out.samefile(photo):
        raise BadInput(f"--out: {out} is the photograph itself: give another name")
    tiles = fitted_tiles(method, given.tile, given.margin)
    height, width = (n * method.scale for n in picture.shape[:2])
    count = tile_count(picture, method.scale, tiles)
    size = f"{width} x {height} pixels from {picture.shape[1]} x {picture.shape[0]}"
    what = f"{size}, {count} tile{'s' if count > 1 else ''}"
    if given.dry_run:
        from mien.rehearsal import duration

        side = min(tiles.core, height, width) // method.scale
        begun = time.perf_counter()
        list(strips(method, picture[:side, :side], tiles))
        print(f"would restore: {what}\ntime: about {duration((time.perf_counter() - begun) * count)}")
        return 0
    with whole_file(out) as temporary, temporary.open("wb") as file, PNGStrips(file, width, height) as png:  # noqa: SIM117
        with Progress(count, "restore") as progress:
            for strip in strips(method, picture, tiles, progress.advance):
                png.write(strip)
    print(f"restored: {what}")
    print(f"written: {out}")
    say((opened.trained_on, *LIMITS))
    return 0
