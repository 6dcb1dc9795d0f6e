# SPDX-License-Identifier: Apache-2.0
"""How many procedural faces of 64 x 64 pixels one core draws in a second, and how well pixels tell people apart.

python benchmarks/people.py
"""

from __future__ import annotations

import numpy as np
import torch
from _contract import measure, promise, publish
from sklearn.neighbors import KNeighborsClassifier

from mien.data.confound import thumbnails
from mien.data.people import MODALITIES, render_faces, sample_people

FACES, PEOPLE, SEED, RATE = 512, 64, 0, 500.0


def identity_cues(people: int = 20, train: int = 40, test: int = 20) -> dict[str, float]:
    """Accuracy on new pictures of known people: best single pixel (nearest mean), thumbnails (nearest neighbour)."""
    index = np.arange(people).repeat(train + test)
    images, _ = render_faces(sample_people(people, SEED), index, SEED, masks=False)
    seen = np.tile(np.arange(train + test) < train, people)
    small = thumbnails(torch.from_numpy(images))
    neighbour = KNeighborsClassifier(1).fit(small[seen], index[seen]).score(small[~seen], index[~seen])
    pixels = images.reshape(len(images), 3, -1)[:, :, ::3]
    means = np.stack([pixels[seen & (index == k)].mean(axis=0) for k in range(people)])
    gaps = np.stack([((pixels[~seen] - mean) ** 2).sum(axis=1) for mean in means])  # (people, pictures, places)
    single = (gaps.argmin(axis=0) == index[~seen][:, None]).mean(axis=0).max()
    return {
        "people": people,
        "training_pictures_each": train,
        "chance": 1 / people,
        "best_single_pixel": round(float(single), 4),
        "thumbnail_12_nearest_neighbour": round(float(neighbour), 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    people, index = sample_people(PEOPLE, SEED), np.arange(FACES) % PEOPLE
    whole, _ = render_faces(people, index, SEED)
    again, _ = render_faces(people, index, SEED)
    if not np.array_equal(whole, again):
        raise SystemExit("the same seed gave other pixels")
    runs = {
        f"{m}, no masks": lambda m=m: render_faces(people, index, SEED, modality=m, masks=False) for m in MODALITIES
    }
    runs["visible, with masks"] = lambda: render_faces(people, index, SEED)
    timing = measure(runs, items=FACES)
    rates = {name: round(1e3 / row["wall_ms"]["median"], 1) for name, row in timing["contenders"].items()}
    print(rates)
    cues = identity_cues()
    print(cues)
    publish(
        "people",
        promises=[
            promise("64 x 64 faces a second on one core", rates["visible, no masks"], RATE, at_least=True),
            promise("the same with region masks", rates["visible, with masks"], RATE, at_least=True),
        ],
        equal={"what": "two renderings with one seed", "equal": True},
        setting={"faces": FACES, "people": PEOPLE, "size": 64, "seed": SEED, "torch_threads": 1},
        faces_per_second=rates,
        timing=timing,
        identity_cues=cues,
    )


if __name__ == "__main__":
    main()
