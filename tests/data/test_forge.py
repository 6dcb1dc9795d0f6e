# SPDX-License-Identifier: Apache-2.0
"""Forgeries: changed only where the mask says, the same whatever the batch, paired and encoded alike with the reals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from mien.data import forge_ops as ops
from mien.data.draws import item_seeds
from mien.data.forge import (
    ALONE,
    draw_sequences,
    edit_region,
    edit_sequence,
    flicker,
    random_sequence,
    region_edit,
    resynthesise,
    self_blend,
    swap,
)
from mien.data.forge_autoencoder import SmallAutoencoder, train_autoencoder
from mien.data.forge_ops import REGIONS
from mien.data.forge_pairs import KINDS, PairedForgeries, Perturbation, common_perturbation
from mien.data.people import render_faces, sample_people
from mien.errors import BadInput

COUNT = 24


@pytest.fixture(scope="module")
def world():
    images, factors = render_faces(sample_people(8, 1), np.arange(COUNT) % 8, 2, size=96, masks=False)
    return torch.from_numpy(images), torch.from_numpy(factors.landmarks[:, :5].copy())


@pytest.fixture(scope="module")
def seeds():
    return item_seeds(5, range(COUNT), "test")


def blur_decoder(images):
    """A stand-in for an autoencoder: per image, known, and wrong everywhere."""
    return 1 - images


def forge(kind, images, seeds, points):
    if kind == "swap":
        donors = torch.arange(len(images)).roll(1) if len(images) > 1 else torch.zeros(1, dtype=torch.long)
        return swap(images, images[donors], seeds, points, None if points is None else points[donors])
    if kind == "autoencoder":
        return resynthesise(images, seeds, points, blur_decoder)
    return ALONE[kind](images, seeds, points)


EVERY = (*ALONE, "swap", "autoencoder")


# --- masks ---


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("known", [True, False])
def test_masks_cover_exactly_what_changed(world, seeds, kind, known):
    """Fails if a pixel changes where the mask is 0, if nothing changes inside, or if the mask is the whole image."""
    images, points = world
    before = images.clone()
    forged = forge(kind, images, seeds, points if known else None)
    assert torch.equal(images, before)  # the input is not written to
    assert forged.mask.shape == (COUNT, 1, 96, 96)
    outside = (forged.mask == 0).expand_as(images)
    assert torch.equal(forged.image[outside], images[outside])
    assert forged.image.min() >= 0
    assert forged.image.max() <= 1
    assert forged.mask.min() >= 0
    assert forged.mask.max() <= 1
    area = (forged.mask > 0.1).float().mean(dim=(1, 2, 3))
    assert area.min() > 0.002
    assert area.max() < 0.7
    changed = ((forged.image - images).abs().mean(dim=1, keepdim=True) * (forged.mask > 0.3)).sum(dim=(1, 2, 3))
    assert (changed / (forged.mask > 0.3).sum(dim=(1, 2, 3)) > 0.002).all()


def test_region_masks_lie_at_the_region(world, seeds):
    images, points = world
    points = points.clone()
    y, x = np.mgrid[:96, :96] + 0.5
    centre = {}
    for region in REGIONS:
        mask = edit_region(images, region, seeds, points).mask[:, 0].numpy()
        total = mask.sum(axis=(1, 2))
        centre[region] = np.stack(((mask * x).sum(axis=(1, 2)), (mask * y).sum(axis=(1, 2))), axis=1) / total[:, None]
    eyes, mouth = points[:, :2].mean(dim=1).numpy(), points[:, 3:5].mean(dim=1).numpy()
    assert np.linalg.norm(centre["eyes"] - eyes, axis=1).max() < 4
    assert np.linalg.norm(centre["lips"] - mouth, axis=1).max() < 4
    order = [np.median(centre[r][:, 1]) for r in ("hair", "brows", "eyes", "nose", "lips")]
    assert order == sorted(order)  # from top to bottom


# --- determinism ---


@pytest.mark.parametrize("kind", [k for k in EVERY if k != "swap"])
def test_a_forgery_depends_on_its_seed_alone(world, seeds, kind):
    """Fails if an item's parameters or pixels depend on its batch; odd sizes leave partly filled vector registers."""
    images, points = world
    for cut in (96, 93):
        faces = images[..., :cut, :cut].contiguous()
        whole = forge(kind, faces, seeds, points)
        for rows in (slice(0, 1), slice(1, 4), slice(4, COUNT)):
            part = forge(kind, faces[rows], seeds[rows], points[rows])
            assert torch.equal(part.image, whole.image[rows])
            assert torch.equal(part.mask, whole.mask[rows])
            assert part.steps == whole.steps[rows]
    other = forge(kind, images, item_seeds(6, range(COUNT), "test"), points)
    assert (other.image - forge(kind, images, seeds, points).image).abs().mean() > 1e-4


def test_a_swap_depends_on_its_seed_alone(world, seeds):
    images, points = world
    whole = swap(images, images.roll(3, 0), seeds, points, points.roll(3, 0), [str(i) for i in range(COUNT)])
    for i in (0, 7, 23):
        one = slice(i, i + 1)
        alone = swap(images[one], images.roll(3, 0)[one], seeds[one], points[one], points.roll(3, 0)[one], [str(i)])
        assert torch.equal(alone.image, whole.image[one])
        assert torch.equal(alone.mask, whole.mask[one])
        assert alone.steps == whole.steps[one]
        assert alone.steps[0][0]["donor"] == str(i)


# --- no shortcut ---


def test_parameters_have_no_direction():
    """Fails if forgeries are on average brighter, larger, sharper: over 4,000 draws means are 0 (ratios: 1)."""
    count = 4000
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = item_seeds(0, range(count), "draws")
    blends = [steps[0] for steps in self_blend(images, seeds).steps]
    edits = [steps[0] for steps in edit_region(images, "nose", seeds).steps]
    swaps = [steps[0] for steps in swap(images, images.roll(1, 0), seeds).steps]

    def centred(values, reach):
        values = np.asarray(values, dtype=np.float64).reshape(count, -1)
        assert np.abs(values.mean(axis=0)).max() < 0.08 * reach  # 4.7 deviations of reach / sqrt(4000)
        assert np.abs(values).max() <= reach * 1.001

    centred([s["colour"] for s in blends], 0.06)
    centred([np.log(s["contrast"]) for s in blends], np.log(1 / 0.88))
    centred([s["sharpness"] for s in blends], 0.9)
    centred([np.log(s["scale"]) for s in blends + swaps][:count], 0.0306)
    centred([s["degrees"] for s in swaps], 1.5)
    centred([np.log(s["scale"]) for s in edits], np.log(4 / 3))
    centred([s["degrees"] for s in edits], 9.0)
    centred([s["colour"] for s in edits], 0.07)
    assert min(abs(np.log(s["scale"])) for s in edits) > np.log(1.19)  # never so mild that nothing is to be seen


def test_a_swap_takes_the_targets_colour_and_the_donors_face(world, seeds):
    """The mean inside the mask is the target's; the structure inside is nearer to the warped donor."""
    images, points = world
    donors, donor_points = images.roll(3, 0), points.roll(3, 0)
    forged = swap(images, donors, seeds, points, donor_points)
    inside = (forged.mask > 0.5).float()

    def mean(faces):
        return (faces * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))

    assert (mean(forged.image) - mean(images)).abs().max() < 0.06
    assert (mean(donors) - mean(images)).abs().mean() > 0.06  # which was not so before
    warped = ops.warp(donors, ops.similarity(donor_points, points))

    def likeness(a, b):
        a, b = ((v.mean(dim=1, keepdim=True) - mean(v).mean(dim=1)[:, None, None, None]) * inside for v in (a, b))
        return torch.cosine_similarity(a.flatten(1), b.flatten(1))

    nearer = likeness(forged.image, warped) > likeness(forged.image, images)
    assert nearer.float().mean() > 0.9


# --- operations ---


def test_similarity_is_found_and_undone():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(5, 6, 2, generator=generator) * 50
    angle, scale, shift = (
        torch.rand(5, generator=generator),
        0.5 + torch.rand(5, generator=generator),
        torch.tensor([3.0, -2]),
    )
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], 1)
    target = scale[:, None, None] * source @ turn.transpose(1, 2) + shift
    found = ops.similarity(source, target)
    assert torch.allclose(found[:, 0], scale * angle.cos(), atol=1e-4)
    assert torch.allclose(found[:, 1], scale * angle.sin(), atol=1e-4)
    identity = torch.tensor([1.0, 0, 0, 0]).expand(5, 4)
    assert torch.allclose(ops.compose(ops.inverse(found), found), identity, atol=1e-4)
    same = ops.similarity(torch.zeros(1, 5, 2), torch.ones(1, 5, 2))  # coinciding points: a shift
    assert torch.allclose(same, torch.tensor([[1.0, 0, 1, 1]]))


def test_warp_by_whole_pixels_is_a_shift():
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    moved = ops.warp(image, torch.tensor([[1.0, 0, 2, -1]]))
    assert torch.allclose(moved[:, :, :-1, 2:], image[:, :, 1:, :-2], atol=1e-5)


def test_colour_matching_gives_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 16, 16, generator=generator), 0.2 + 0.6 * torch.rand(2, 3, 16, 16, generator=generator)
    matched = ops.match_colour(a, b, torch.ones(2, 1, 16, 16))
    assert torch.allclose(matched.mean(dim=(2, 3)), b.mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(matched.std(dim=(2, 3)), b.std(dim=(2, 3)), atol=1e-4)


# --- sequences of edits ---


def test_the_order_of_edits_is_recorded_and_matters(world, seeds):
    """Eyes and brows overlap: the two orders differ in pixels, not in parameters. Hair and lips do not overlap."""
    images, points = world
    there = edit_sequence(images, [["brows", "eyes"]] * COUNT, seeds, points)
    back = edit_sequence(images, [["eyes", "brows"]] * COUNT, seeds, points)
    assert [s["region"] for s in there.steps[0]] == ["brows", "eyes"]
    assert [s["region"] for s in back.steps[0]] == ["eyes", "brows"]
    assert all(a == b[::-1] for a, b in zip(there.steps, back.steps, strict=True))
    differing = (there.image - back.image).abs().amax(dim=(1, 2, 3)) > 1 / 255
    assert differing.float().mean() > 0.8
    assert torch.equal(there.mask, back.mask)
    apart = [edit_sequence(images, [order] * COUNT, seeds, points) for order in (["hair", "lips"], ["lips", "hair"])]
    assert torch.equal(apart[0].image, apart[1].image)


def test_a_sequence_is_its_edits_one_after_another(world, seeds):
    images, points = world
    both = edit_sequence(images, [["nose", "lips"]] * COUNT, seeds, points)
    first = edit_sequence(images, [["nose"]] * COUNT, seeds, points)
    second = edit_sequence(first.image, [["lips"]] * COUNT, seeds, points)
    assert torch.equal(second.image, both.image)
    assert torch.equal(torch.maximum(first.mask, second.mask), both.mask)
    none = edit_sequence(images[:2], [[], ["lips"]], seeds[:2], points[:2])
    assert torch.equal(none.image[0], images[0])
    assert none.mask[0].max() == 0
    assert none.steps[0] == []
    assert len(none.steps[1]) == 1


def test_sequences_are_drawn_evenly():
    drawn = draw_sequences(item_seeds(0, range(5000)), 1, 5)
    lengths = np.bincount([len(s) for s in drawn], minlength=6)
    assert lengths[0] == 0
    assert np.abs(lengths[1:] - 1000).max() < 140  # 5 deviations of 28
    assert all(len(set(s)) == len(s) for s in drawn)
    first = [sum(s[0] == region for s in drawn) for region in REGIONS]
    assert np.abs(np.array(first) - 1000).max() < 140
    assert {s[0]["region"] for s in region_edit(torch.rand(60, 3, 16, 16), item_seeds(0, range(60))).steps} == set(
        REGIONS[:4]
    )
    steps = random_sequence(torch.rand(60, 3, 16, 16), item_seeds(0, range(60))).steps
    assert {len(s) for s in steps} == {1, 2, 3, 4, 5}


# --- flicker ---


def test_flicker_changes_frames_differently_and_keeps_the_clips_mean(world):
    images, points = world
    frames = 12
    clip, still = images[3].expand(frames, -1, -1, -1).contiguous(), points[3].expand(frames, -1, -1).contiguous()
    forged = flicker(clip, 4, still)
    assert torch.equal(forged.image[(forged.mask == 0).expand_as(clip)], clip[(forged.mask == 0).expand_as(clip)])
    inside = (forged.mask[:1] > 0.5).float()
    jump = ((forged.image[1:] - forged.image[:-1]).abs() * inside).sum(dim=(1, 2, 3)) / (3 * inside.sum())
    assert jump.min() > 0.004  # a still clip: every change is the forgery's
    assert len({str(s) for s in forged.steps}) == frames
    for name in ("colour", "move", "sharpness"):
        assert np.abs(np.mean([s[0][name] for s in forged.steps], axis=0)).max() < 1e-3, name
    assert torch.equal(forged.mask, forged.mask[:1].expand_as(forged.mask))  # the face is still, so is its mask
    tone = (forged.image.mean(dim=0) - clip[0]).mul(inside[0]).sum() / (3 * inside.sum())
    assert tone.abs() < 0.01
    assert torch.equal(flicker(clip, 4, still).image, forged.image)
    assert not torch.equal(flicker(clip, 5, still).image, forged.image)


# --- autoencoder ---


def test_the_autoencoder_learns_faces_and_makes_them_anew(world, seeds):
    """Fails if training does not bring the error far below the untrained one's and below a flat image's."""
    images, points = world
    faces = (images[..., ::2, ::2] * 255).byte()
    state = torch.random.get_rng_state()
    network = train_autoencoder(faces, steps=120, batch=8, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left as it was
    small = faces.float() / 255
    with torch.no_grad():
        error = (network(small) - small).abs().mean()
    flat = (small - small.mean(dim=(2, 3), keepdim=True)).abs().mean()
    assert error < 0.5 * flat
    again = train_autoencoder(faces, steps=3, batch=8, seed=0)
    same = train_autoencoder(faces, steps=3, batch=8, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))
    forged = resynthesise(images, seeds, points, network)
    assert forged.steps[0][0]["by"] == "autoencoder"
    alone = resynthesise(images[5:6], seeds[5:6], points[5:6], network)
    assert torch.equal(alone.image, forged.image[5:6])  # whatever the batch
    outside = (forged.mask == 0).expand_as(images)
    assert torch.equal(forged.image[outside], images[outside])
    assert network(small[:, :, :13, :30]).shape == (COUNT, 3, 13, 30)
    assert network(small[:0]).shape == (0, 3, 48, 48)


def test_the_autoencoder_refuses_what_it_cannot_train_on():
    with pytest.raises(BadInput, match="float32"):
        train_autoencoder(torch.rand(2, 3, 8, 8))
    with pytest.raises(BadInput, match="multiples of 4"):
        train_autoencoder(torch.zeros(2, 3, 8, 10, dtype=torch.uint8))
    assert sum(p.numel() for p in SmallAutoencoder().parameters()) < 60_000


# --- pairs ---


@pytest.fixture(scope="module")
def faces(world):
    images, points = world
    names = [f"p{i % 8}" for i in range(COUNT)]
    splits = ["train" if i % 8 < 5 else "test" for i in range(COUNT)]
    return (images * 255).byte(), names, points, splits


def paired(faces, **change):
    images, names, points, splits = faces
    return PairedForgeries(images, names, **{"landmarks": points, "splits": splits, "seed": 3, **change})


def test_every_real_gives_one_fake_of_each_kind(faces):
    everything = paired(faces, kinds=(*KINDS, "edit-sequence")).arrays()
    assert len(everything.kind) == COUNT * 6
    for i in range(COUNT):
        rows = np.flatnonzero(everything.item.numpy() == i)
        assert [everything.kind[r] for r in rows] == ["real", *KINDS, "edit-sequence"]
        assert {everything.group[r] for r in rows} == {f"p{i % 8}"}
        assert everything.label[rows].tolist() == [0, 1, 1, 1, 1, 1]
    real = everything.label == 0
    assert everything.mask[real].max() == 0
    assert (everything.mask[~real].amax(dim=(1, 2, 3)) > 100).all()
    assert all((recipe == []) == bool(r) for recipe, r in zip(everything.recipe, real, strict=True))


def test_a_sample_is_the_same_whatever_the_batch(faces):
    """Fails if anything depends on which samples are made together, in which order, or by which copy of the set."""
    data = paired(faces, perturbation=Perturbation(resize=(0.6, 0.9), colour=0.05))
    order = np.random.default_rng(0).permutation(len(data))[:40].tolist()
    whole = data.arrays()
    other = copy.deepcopy(data).__getitems__(order)
    for index, sample in zip(order, other, strict=True):
        assert torch.equal(sample.image, whole.image[index])
        assert torch.equal(sample.mask, whole.mask[index])
        assert (sample.kind, sample.group, sample.item) == (whole.kind[index], whole.group[index], whole.item[index])
        assert sample.recipe == whole.recipe[index]
    alone = data[order[0]]
    assert torch.equal(alone.image, whole.image[order[0]])
    assert not torch.equal(paired(faces, seed=4)[1].image, paired(faces)[1].image)


def test_an_items_forgery_does_not_change_when_faces_are_added(faces):
    """Kinds that need no donor depend on (seed, item) alone."""
    images, names, points, _ = faces
    kinds = ("self-blend", "re-synthesis", "region-edit")
    few = PairedForgeries(images[:6], names[:6], landmarks=points[:6], kinds=kinds, seed=3).arrays()
    many = PairedForgeries(images, names, landmarks=points, kinds=kinds, seed=3).arrays(range(len(few.image)))
    assert torch.equal(few.image, many.image)


def test_donors_are_other_people_of_the_same_split(faces):
    _, names, _, splits = faces
    for seed in range(5):
        data = paired(faces, seed=seed, donors=4)
        for i, donor in enumerate(data.donors):
            assert names[donor] != names[i]
            assert splits[donor] == splits[i]
    swaps = paired(faces, kinds=("swap",), real_copies=0).arrays()
    assert [r[0]["donor"] for r in swaps.recipe] == [names[d] for d in paired(faces).donors]
    assert len(np.unique(paired(faces).donors)) > 5  # not one donor for all


def test_donors_look_alike(faces):
    """The donor is nearer in the coarse look than a random other person: the swap's layout must not betray it."""
    images, names, points, _ = faces
    data = PairedForgeries(images, names, landmarks=points, donors=1)
    looks = data._looks(range(COUNT))
    far = torch.cdist(looks, looks)
    for i in range(COUNT):
        others = [far[i, j] for j in range(COUNT) if names[j] != names[i]]
        assert far[i, data.donors[i]] <= min(others) + 1e-6


def test_both_classes_share_their_last_encoding(faces):
    """Far from the mask a forgery equals its real bit for bit after JPEG, so quality and all else are the same.

    JPEG works in blocks of 16 pixels here, and colours are smoothed over one more: 24 pixels away nothing is shared.
    """
    data = paired(faces, kinds=("region-edit", "self-blend"), real_copies=2, perturbation=Perturbation(jpeg=(30, 95)))
    whole = data.arrays()
    checked = 0
    for i in range(COUNT):
        for copy_number in range(2):
            real, fake = 4 * i + copy_number, 4 * i + 2 + copy_number
            near = torch.nn.functional.max_pool2d((whole.mask[fake] > 0).float()[None], 49, 1, 24)[0] > 0
            away = ~near.expand(3, -1, -1)
            checked += int(away.sum())
            assert torch.equal(whole.image[real][away], whole.image[fake][away])
    assert checked > 10_000
    assert not torch.equal(whole.image[0], whole.image[1])  # the two real copies have encodings of their own


def test_the_encoding_is_pillows_and_in_range(faces):
    images = faces[0][:8].float() / 255
    seeds = item_seeds(0, range(8), "encoding")
    assert torch.equal(common_perturbation(images, seeds, Perturbation(jpeg=None)), faces[0][:8])
    out = common_perturbation(images, seeds, Perturbation(jpeg=(50, 50)))
    import io

    buffer = io.BytesIO()
    Image.fromarray(faces[0][2].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=50)
    assert np.array_equal(out[2].permute(1, 2, 0).numpy(), np.asarray(Image.open(buffer)))


def test_masks_survive_as_bytes_without_losing_changes(faces):
    """Before the encoding: where the byte mask is 0 nothing changed, in every kind."""
    data = paired(faces, kinds=(*KINDS, "edit-sequence"), perturbation=Perturbation(jpeg=None))
    whole = data.arrays()
    real = whole.image[::6].repeat_interleave(6, dim=0)
    assert torch.equal(whole.image[(whole.mask == 0).expand_as(real)], real[(whole.mask == 0).expand_as(real)])


def test_files_give_the_same_as_tensors(faces, tmp_path):
    images, names, points, splits = faces
    paths = []
    for i in range(COUNT):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(images[i].permute(1, 2, 0).numpy()).save(paths[-1])
    from_files = PairedForgeries(paths, names, landmarks=points, splits=splits, seed=3)
    assert torch.equal(from_files.arrays(range(12)).image, paired(faces).arrays(range(12)).image)
    Image.new("RGB", (20, 20)).save(paths[1])
    with pytest.raises(BadInput, match="align the faces first"):
        PairedForgeries(paths, names, landmarks=points, splits=splits, kinds=("self-blend",)).arrays()


# --- bad input ---


def test_bad_pairs_are_named(faces):
    images, names, points, splits = faces
    for change, message in (
        ({"kinds": ("self-blendd",)}, "self-blend"),
        ({"landmarks": points[:3]}, "landmarks"),
        ({"splits": splits[:3]}, "one name each"),
        ({"donors": 0}, "donors is 0"),
        ({"kinds": (), "real_copies": 0}, "real_copies"),
        ({"splits": ["a"] * 23 + ["b"]}, "one identity only"),
    ):
        with pytest.raises(BadInput, match=message):
            paired(faces, **change)
    with pytest.raises(BadInput, match="uint8"):
        PairedForgeries(images.float(), names)
    with pytest.raises(BadInput, match="one name each"):
        PairedForgeries(images, names[:-1])
    with pytest.raises(IndexError):
        paired(faces).arrays([len(paired(faces))])
    for wrong in ({"jpeg": (95, 75)}, {"resize": (0.0, 0.5)}, {"colour": 1.0}):
        with pytest.raises(BadInput):
            Perturbation(**wrong)


def test_bad_forgeries_are_named(world, seeds):
    images, points = world
    with pytest.raises(BadInput, match="lipps"):
        edit_region(images, "lipps", seeds, points)
    with pytest.raises(BadInput, match="twice"):
        edit_sequence(images[:1], [["eyes", "eyes"]], seeds[:1], points[:1])
    with pytest.raises(BadInput, match="ear"):
        edit_sequence(images[:1], [["ear"]], seeds[:1], points[:1])
    with pytest.raises(BadInput, match="2 sequences for 1"):
        edit_sequence(images[:1], [[], []], seeds[:1], points[:1])
    with pytest.raises(BadInput, match="float"):
        self_blend((images * 255).byte(), seeds)
    with pytest.raises(BadInput, match="five points"):
        self_blend(images, seeds, points[:, :4])
    with pytest.raises(BadInput, match="lengths are 2 to 1"):
        draw_sequences(seeds, 2, 1)
