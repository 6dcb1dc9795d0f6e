# SPDX-License-Identifier: Apache-2.0
"""Public forgery data sets as records, in the layouts in which their owners publish them, once frames are extracted.

Each reader takes the folder and a split and returns records sorted by video and frame: label 0 real, 1 forged; `kind`
the set's own name of the forgery; `video` one folder of frames; `group` what must not be split, by the rule that each
reader states. Groups carry the set's name, so that equal numbers in two sets are not taken for one person.

Most sets are videos; frames, usually face crops, are extracted beforehand into one folder per video that is named like
the video. Where a set's own layout has a folder "videos", the frames lie beside it in "frames" (or images, faces,
crops).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mien.data.folders import Record
from mien.data.listing import list_images, natural_key, printable
from mien.errors import BadInput, unknown_name
from mien.forensics.readers.deepfake_nir import deepfake_nir, deepfake_nir_perturbed, is_deepfake_nir
from mien.forensics.readers.dfdc import dfdc_preview
from mien.forensics.readers.fairfd import fairfd, looks_like_fairfd
from mien.forensics.readers.forgery_nir import forgery_nir, looks_like_forgery_nir
from mien.forensics.readers.frame_folders import (
    HELP,
    check_split,
    child,
    complete,
    frame_records,
    no_data,
    read_json,
    root_folder,
    videos_in,
)
from mien.forensics.readers.seq_deepfake import seq_deepfake

COMPRESSIONS = ("raw", "c0", "c23", "c40")  # "c0" is the older name of "raw"
FACEFORENSICS_KINDS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def _split_pairs(root: Path, split: str) -> dict[str, str]:
    """Group of each video number of a published FaceForensics++ split (a list of pairs of numbers)."""
    places = [root, root / "splits", root / "dataset" / "splits"]
    file = next((place / f"{split}.json" for place in places if (place / f"{split}.json").is_file()), places[0])
    if file == places[0]:
        raise no_data("FaceForensics++", f"no {split}.json in {root}, {root / 'splits'} or {root / 'dataset/splits'}")
    pairs = read_json(file, "FaceForensics++")
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs) or not pairs:
        raise BadInput(f'FaceForensics++: {printable(str(file))} must be a list of pairs such as ["000", "003"]')
    return {str(number): "-".join(sorted(map(str, pair))) for pair in pairs for number in pair}


def faceforensics(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    kinds: Sequence[str] = FACEFORENSICS_KINDS[:4],
    compression: str = "c23",
    frames: str | None = None,
    partial: bool = False,
    files: bool = False,
) -> list[Record]:
    """FaceForensics++ (Roessler et al., ICCV 2019): 1,000 originals, and each forged by every kind.

    `manipulated_sequences/Deepfakes/c23/frames/000_003` is video 000 with the face of 003. The published splits list
    pairs of originals that were forged with one another; a pair with everything made from it is one group, and the
    splits are disjoint in originals, so nothing leaks. Originals come once, however many kinds are asked for.

    Args:
        folder: Holds original_sequences and manipulated_sequences; the split files lie in it, in splits/ or in
            dataset/splits/.
        split: train (720 originals), val (140), test (140), or all of them.
        kinds: Any of `FACEFORENSICS_KINDS`; the four of the paper are the default.
        compression: raw (or c0), c23 (the usual choice) or c40.
        frames: Name of the frame folders where there are several.
        partial: Accept that videos of the split have no frames.
        files: Take the video files where there are no frames.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; an unknown split, kind or compression.
    """
    name = "FaceForensics++"
    check_split(split, ("train", "val", "test", "all"))
    if compression not in COMPRESSIONS:
        raise unknown_name("compression", compression, COMPRESSIONS)
    for kind in kinds:
        if kind not in FACEFORENSICS_KINDS:
            raise unknown_name("kind of FaceForensics++", kind, FACEFORENSICS_KINDS)
    root = root_folder(folder, name)
    groups: dict[str, str] = {}
    for part in ("train", "val", "test") if split == "all" else (split,):
        groups.update(_split_pairs(root, part))
    # The manipulated videos of a pair (a, b) are a_b and b_a.
    forged = {
        f"{a}_{b}": group for group in set(groups.values()) for a, b in (group.split("-"), reversed(group.split("-")))
    }
    records: list[Record] = []
    missing: list[str] = []
    sources = [("original_sequences", "youtube", 0, "real", groups)]
    sources += [("manipulated_sequences", kind, 1, kind, forged) for kind in kinds]
    for top, middle, label, kind, wanted in sources:
        videos = videos_in(root / top / middle / compression, name, frames, files=files)
        for video, group in sorted(wanted.items()):
            place = f"{middle}/{compression}/{video}"
            found = video in videos and frame_records(
                videos[video], label, f"faceforensics/{group}", kind, f"faceforensics/{place}"
            )
            records += found or []
            missing += [] if found else [place]
    return complete(name, missing, sum(len(wanted) for *_, wanted in sources), records, partial)


def deepfake_detection(
    folder: str | os.PathLike[str],
    split: str = "test",
    *,
    compression: str = "c23",
    frames: str | None = None,
    partial: bool = False,
    files: bool = False,
) -> list[Record]:
    """DeepFakeDetection (Google and Jigsaw, 2019), published inside FaceForensics++: 28 actors, 363 originals.

    It has no training split and is a test set only. `01_02__walk__ABC` is actor 01 with the face of actor 02; the group
    is the actor who is seen (01). Faces of other groups recur as donors, so do not split it further.

    Args:
        folder: That of FaceForensics++.
        split: "test", the whole set.
        compression: raw (or c0), c23 or c40.
        frames: Name of the frame folders where there are several.
        partial: Accept videos without frames.
        files: Take the video files where there are no frames.

    Raises:
        BadInput: As `faceforensics`.
    """
    name = "DeepFakeDetection"
    if split != "test":
        raise BadInput(f"{name}: split {split!r} does not exist; the set has no published splits and is for test only")
    if compression not in COMPRESSIONS:
        raise unknown_name("compression", compression, COMPRESSIONS)
    root = root_folder(folder, name)
    records: list[Record] = []
    missing: list[str] = []
    count = 0
    for place, label, kind in (
        (root / "original_sequences" / "actors", 0, "real"),
        (root / "manipulated_sequences" / name, 1, name),
    ):
        for video, path in videos_in(place / compression, name, frames, files=files).items():
            actor = re.match(r"\d+", video)
            if actor is None:
                raise BadInput(f"{name}: video {printable(video)} does not begin with the number of an actor")
            key = f"deepfakedetection/{place.name}/{compression}/{video}"
            found = frame_records(path, label, f"deepfakedetection/{actor.group()}", kind, key)
            records += found
            missing += [] if found else [video]
            count += 1
    return complete(name, missing, count, records, partial)


def celeb_df(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    frames: str | None = None,
    partial: bool = False,
    files: bool = False,
) -> list[Record]:
    """Celeb-DF v2 (Li et al., CVPR 2020): 590 and 300 real videos, 5,639 forged ones, 518 of them listed for test.

    `Celeb-synthesis/id0_id1_0003` is the real video `id0_0003` with the face of id1; the real video and everything
    made from it are one group. Whatever shares a group with a listed test video is left out of train. People recur in
    both splits: the set was published so, and a result on it is about unseen videos, not unseen people.

    In List_of_testing_videos.txt a 1 means real.

    Args:
        folder: Holds Celeb-real, YouTube-real, Celeb-synthesis and the list.
        split: train (what is not listed), test (what is), or all.
        frames: Name of the frame folders where there are several.
        partial: Accept listed videos, and folders of train, without frames.
        files: Take the video files where there are no frames.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; a list that contradicts the folders.
    """
    name = "Celeb-DF v2"
    check_split(split, ("train", "test", "all"))
    root = root_folder(folder, name)
    parts = {"Celeb-real": 0, "YouTube-real": 0, "Celeb-synthesis": 1}
    listed = _celeb_test_list(root, name, parts)
    held_out = {_celeb_group(part, video) for part, video in listed}
    records: list[Record] = []
    missing: list[str] = []
    count = 0
    for part, label in parts.items():
        videos = videos_in(child(root, part), name, frames, files=files)
        everything = {*videos, *(video for p, video in listed if p == part)}
        wanted = [
            video
            for video in sorted(everything, key=natural_key)
            if split == "all"
            or (split == "test" and (part, video) in listed)
            or (split == "train" and _celeb_group(part, video) not in held_out)
        ]
        for video in wanted:
            kind = part if label else "real"
            found = video in videos and frame_records(
                videos[video], label, _celeb_group(part, video), kind, f"celeb-df/{part}/{video}"
            )
            records += found or []
            missing += [] if found else [f"{part}/{video}"]
        count += len(wanted)
    return complete(name, missing, count, records, partial)


def _celeb_group(part: str, video: str) -> str:
    if part == "YouTube-real":
        return f"celeb-df/youtube/{video}"
    match = re.fullmatch(r"(id\d+)(?:_id\d+)?_(\d+)", video)
    if match is None:
        raise BadInput(f"Celeb-DF v2: {part}/{printable(video)} is not named like id0_0000 or id0_id1_0000")
    return f"celeb-df/{match.group(1)}_{match.group(2)}"


def _celeb_test_list(root: Path, name: str, parts: dict[str, int]) -> set[tuple[str, str]]:
    file = root / "List_of_testing_videos.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise no_data(name, f"no file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name}: {printable(str(file))} cannot be read ({error})") from error
    by_lower = {part.lower(): part for part in parts}
    listed = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([01])\s+([^/]+)/([^/]+?)(\.\w+)?", line.strip())
        part = by_lower.get(match.group(2).lower()) if match else None
        if match is None or part is None:
            raise BadInput(
                f"{name}: line {number} of {file.name} is {line.strip()!r}; expected '1 Celeb-real/NAME.mp4'"
            )
        if int(match.group(1)) == parts[part]:  # the list says 1 for real, our labels say 0
            raise BadInput(f"{name}: line {number} of {file.name} gives {match.group(1)} to {part}, but 1 means real")
        listed.add((part, match.group(3)))
    if not listed:
        raise BadInput(f"{name}: {printable(str(file))} lists no videos")
    return listed


def wild_deepfake(folder: str | os.PathLike[str], split: str = "train") -> list[Record]:
    """WildDeepfake (Zi et al., ACM MM 2020): face sequences from 707 videos of the internet, already cropped.

    `real_train/12/real/103/*.png` is sequence 103 of video 12. The sequence is scored as a video, and the video of the
    internet is the group; the published splits do not share videos. Who is seen in them is not known.

    Args:
        folder: Holds real_train, fake_train, real_test and fake_test, archives unpacked.
        split: train, test, or all.

    Raises:
        BadInput: What is missing, where to get it and how it must lie; archives that are still packed.
    """
    name = "WildDeepfake"
    check_split(split, ("train", "test", "all"))
    root = root_folder(folder, name)
    records: list[Record] = []
    for part in ("train", "test") if split == "all" else (split,):
        for kind, label in (("real", 0), ("fake", 1)):
            place = root / f"{kind}_{part}"
            if not place.is_dir():
                raise no_data(name, f"no folder {place}")
            records += _wild_part(place, label, kind, name)
    return records


def _wild_part(place: Path, label: int, kind: str, name: str) -> list[Record]:
    records: list[Record] = []
    counts: dict[str, int] = {}
    for path in list_images(place):
        # Some copies lack the inner real/ or fake/, or have one more folder on top; the numbers are what counts.
        numbers = [part for part in path.relative_to(place).parts[:-1] if part not in (kind, "frames", "extracted")]
        if not numbers:
            raise no_data(name, f"{path} lies in no video's folder")
        group = f"wilddeepfake/{place.name}/{numbers[0]}"
        video = "/".join([group, *numbers[1:]])
        records.append(Record(path, label, group, kind, counts.get(video, 0), video))
        counts[video] = counts.get(video, 0) + 1
    if not records:
        packed = any(".tar" in entry.name for entry in place.iterdir())
        raise no_data(name, f"{place} holds {'only packed archives' if packed else 'no images'}")
    return records


READERS: dict[str, Callable[..., list[Record]]] = {
    "faceforensics": faceforensics,
    "deepfake-detection": deepfake_detection,
    "celeb-df": celeb_df,
    "dfdc-preview": dfdc_preview,
    "wilddeepfake": wild_deepfake,
    "forgerynir": forgery_nir,
    "deepfake-nir": deepfake_nir,
    "deepfake-nir-perturbed": deepfake_nir_perturbed,
    "fairfd": fairfd,
    "seq-deepfake": seq_deepfake,
}

DOWNLOAD = {
    "faceforensics": HELP["FaceForensics++"],
    "deepfake-detection": HELP["DeepFakeDetection"],
    "celeb-df": HELP["Celeb-DF v2"],
    "dfdc-preview": HELP["DFDC preview"],
    "wilddeepfake": HELP["WildDeepfake"],
    "forgerynir": HELP["ForgeryNIR"],
    "deepfake-nir": HELP["DeepfakeNIR"],
    "deepfake-nir-perturbed": HELP["DeepfakeNIR"],
    "fairfd": HELP["FairFD"],
    "seq-deepfake": HELP["Seq-DeepFake"],
}
"""Kind -> what to download and how it must lie."""

WITH_FILES = frozenset({"faceforensics", "deepfake-detection", "celeb-df"})
"""Readers that take video files where they are told to; those of DeepfakeNIR take what there is."""


def recognise(folder: str | os.PathLike[str]) -> str | None:
    """Name in `READERS` of the data set that lies in a folder, by its unmistakable entries; None for others.

    A FaceForensics++ folder without the YouTube originals is taken for DeepFakeDetection.
    """
    folder = Path(folder)
    if (folder / "original_sequences" / "youtube").is_dir():
        return "faceforensics"
    if (folder / "original_sequences" / "actors").is_dir():
        return "deepfake-detection"
    if (folder / "List_of_testing_videos.txt").is_file():
        return "celeb-df"
    if (folder / "dataset.json").is_file() and (folder / "original_videos").is_dir():
        return "dfdc-preview"
    if any((folder / f"real_{part}").is_dir() and (folder / f"fake_{part}").is_dir() for part in ("train", "test")):
        return "wilddeepfake"
    if looks_like_forgery_nir(folder):
        return "forgerynir"
    if looks_like_fairfd(folder):
        return "fairfd"
    if any((folder / part / "annotations").is_dir() for part in ("facial_components", "facial_attributes")):
        return "seq-deepfake"
    if is_deepfake_nir(folder):
        return "deepfake-nir"
    return None
