# SPDX-License-Identifier: Apache-2.0
"""Keys from passphrases, the protected file, regions and tiles."""

from __future__ import annotations

import hashlib
import io
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from mien.errors import BadInput
from mien.privacy.attack import accepted_guesses, neighbours, revealed_by, total_variation
from mien.privacy.container import (
    Header,
    Region,
    pack_depth,
    read_protected,
    split_levels,
    tiles_of,
    unpack_depth,
    write_protected,
)
from mien.privacy.keys import (
    Cost,
    expand,
    key_bits,
    master_key,
    read_passphrase,
    verified,
    verifier,
)
from mien.privacy.obfuscate import obfuscate
from mien.privacy.photographs import (
    Wish,
    _obfuscated,
    check_weights,
    face_regions,
    find_regions,
    fingerprint,
    protect_photograph,
    region_psnr,
    reveal_photograph,
)
from mien.privacy.pro_face_s import ProFaceS

SALT = bytes(range(16))
CHEAP = Cost(log2_n=10)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = ProFaceS(blocks=2, growth=4, perceptual="none", image_size=16)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.02
    return made.eval()


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (75, 93, 3), dtype=np.uint8)


# --- keys ---------------------------------------------------------------------------------------------------------
def test_master_key_is_scrypt():
    """RFC 7914, section 12, third vector, cut to 32 bytes by the derivation's own definition (PBKDF2 blocks)."""
    expected = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
    assert hashlib.scrypt(b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1, dklen=64)[:32] == expected
    found = master_key(b"pleaseletmein", SALT, Cost(log2_n=14))
    assert found == hashlib.scrypt(b"pleaseletmein", salt=SALT, n=16384, r=8, p=1, dklen=32)


def test_bits_are_shake_of_purpose_version_numbers_salt_and_master():
    master = bytes(32)
    text = b"pro-face-s key bits"
    words = b"".join(n.to_bytes(8, "big") for n in (1, 3, 4, 6, 2))
    raw = hashlib.shake_256(len(text).to_bytes(8, "big") + text + words + SALT + master).digest(3)
    expected = [1.0 if raw[i // 8] >> (7 - i % 8) & 1 else -1.0 for i in range(24)]
    assert key_bits(master, SALT, (4, 6), place=2).flatten().tolist() == expected


def test_everything_that_is_bound_changes_half_of_the_bits():
    master, other = (master_key(p, SALT, CHEAP) for p in (b"correct horse", b"correct horsf"))
    first = key_bits(master, SALT, (64, 64), place=0)
    changed = [
        key_bits(other, SALT, (64, 64), place=0),
        key_bits(master, bytes(16), (64, 64), place=0),
        key_bits(master, SALT, (64, 64), place=1),
        key_bits(master, SALT, (32, 128), place=0).view_as(first),
    ]
    for bits in changed:
        assert 0.45 < float((bits != first).float().mean()) < 0.55
    assert torch.equal(first, key_bits(master, SALT, (64, 64), place=0))
    assert abs(float(first.mean())) < 0.06


def test_a_prefix_of_one_purpose_is_no_prefix_of_another():
    assert expand(bytes(32), SALT, "a", 1, count=8) != expand(bytes(32), SALT, "a", 1, 0, count=8)
    assert expand(bytes(32), SALT, "ab", count=8) != expand(bytes(32), SALT, "a", count=8)
    assert verifier(bytes(32), SALT) != expand(bytes(32), SALT, "pro-face-s key bits", count=4)


def test_verifier_tells_a_thousand_neighbours_from_the_right_passphrase():
    near = neighbours(b"correct horse", 1000)
    assert len(set(near)) == 1000
    assert b"correct horse" not in near
    tiny = Cost(log2_n=10, r=1)
    truth = master_key(b"correct horse", SALT, tiny)
    expected = verifier(truth, SALT)
    assert verified(truth, SALT, expected)
    assert accepted_guesses([master_key(p, SALT, tiny) for p in near], SALT, expected) == []
    assert accepted_guesses([bytes(32), truth], SALT, expected) == [1]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"abc\n", b"abc"),
        (b"abc\r\n", b"abc"),
        (b"abc\n\n", b"abc\n"),
        (b" a b ", b" a b "),
        (b"\x00\xff\r", b"\x00\xff\r"),
    ],
)
def test_one_newline_at_the_end_is_no_part_of_the_passphrase(tmp_path, written, read):
    (tmp_path / "key").write_bytes(written)
    assert read_passphrase(tmp_path / "key") == read


def test_key_files_that_hold_no_key_are_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    for name, words in (("empty", "empty"), ("large", "at most"), ("missing", "no such file"), (".", "not a file")):
        with pytest.raises(BadInput, match=words):
            read_passphrase(tmp_path / name)


def test_costs_that_a_stranger_could_ask_for_are_bounded():
    for wrong in ({"log2_n": 9}, {"log2_n": 21}, {"r": 0}, {"p": 17}, {"log2_n": 20, "r": 32}):
        with pytest.raises(BadInput, match="cost"):
            Cost(**wrong)
    with pytest.raises(BadInput, match="16"):
        master_key(b"a", b"short", CHEAP)
    with pytest.raises(BadInput, match="empty"):
        master_key(b"", SALT, CHEAP)


# --- tiles and depth ----------------------------------------------------------------------------------------------
@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 100))
@hypothesis_settings(max_examples=50, deadline=None)
def test_tiles_cover_a_region_once_with_even_sides(half_height, half_width, half_longest):
    region = Region(4, 6, 2 * half_height, 2 * half_width)
    count = np.zeros((region.top + region.height, region.left + region.width), int)
    for tile in tiles_of(region, 2 * half_longest):
        assert all(n % 2 == 0 for n in (tile.top, tile.left, tile.height, tile.width))
        assert 0 < max(tile.height, tile.width) <= 2 * half_longest
        count[tile.slices] += 1
    assert (count[region.slices] == 1).all()
    assert count.sum() == region.height * region.width


@given(st.lists(st.floats(-100, 355, width=32), min_size=1, max_size=40))
@hypothesis_settings(max_examples=50, deadline=None)
def test_what_8_bits_cannot_hold_is_kept_to_a_512th_of_a_level(values):
    levels = np.array(values, np.float32)
    shown, rest = split_levels(levels)
    assert shown.dtype == np.uint8
    back = unpack_depth(pack_depth(rest), rest.shape)
    assert (back == rest).all()
    assert np.abs(shown.astype(np.float64) + back / 256 - levels).max() <= 1 / 512 + 1e-4


def test_depth_of_another_length_is_refused():
    packed = pack_depth(np.zeros((4, 4, 3), np.int16))
    for shape, data in (((4, 4, 1), packed), ((8, 4, 3), packed), ((4, 4, 3), packed[:-3]), ((4, 4, 3), b"junk")):
        with pytest.raises(BadInput, match="chunk"):
            unpack_depth(data, shape)


# --- regions ------------------------------------------------------------------------------------------------------
def test_faces_become_even_rectangles_inside_the_canvas_and_apart():
    boxes = [(10, 10, 30, 31), (25, 20, 50, 45), (150, 100, 171, 120), (-90, 150, -60, 180), (395, 195, 420, 220)]
    regions = face_regions(boxes, 200, 400)
    assert len(regions) == 3  # two overlap, one lies outside
    for region in regions:
        assert all(n % 2 == 0 and n >= 0 for n in (region.top, region.left, region.height, region.width))
        assert region.top + region.height <= 200
        assert region.left + region.width <= 400
        assert min(region.height, region.width) >= 16
    assert not any(a.overlaps(b) for a in regions for b in regions if a is not b)
    assert regions[0].top == 0
    assert regions[0].left == 0
    assert regions[0].height >= 45


@given(st.lists(st.tuples(*[st.integers(-20, 220)] * 2, st.integers(1, 90)), max_size=12))
@hypothesis_settings(max_examples=50, deadline=None)
def test_regions_never_overlap_and_hold_the_visible_part_of_every_box(found):
    boxes = [(x, y, x + side, y + side) for x, y, side in found]
    regions = face_regions(boxes, 160, 200)
    covered = np.zeros((160, 200), int)
    for region in regions:
        covered[region.slices] += 1
    assert covered.max(initial=0) <= 1
    for left, top, right, bottom in boxes:
        assert (covered[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] == 1).all()


def test_a_photograph_without_a_face_or_too_small_is_refused():
    class Nobody:
        def __call__(self, image):
            return []

    with pytest.raises(BadInput, match="--whole"):
        find_regions(np.zeros((64, 64, 3), np.uint8), Wish(), Nobody())
    with pytest.raises(BadInput, match="16 x 16"):
        find_regions(np.zeros((12, 64, 3), np.uint8), Wish(whole=True))
    assert find_regions(np.zeros((33, 64, 3), np.uint8), Wish(whole=True)) == [Region(0, 0, 34, 64)]


# --- whole photographs --------------------------------------------------------------------------------------------
def protected(model, photo, tmp_path, **wish):
    chosen = Wish(cost=CHEAP, salt=SALT, tile=32, obfuscation="blur", **wish)
    regions = [Region(2, 4, 40, 50), Region(50, 60, 26, 34)] if not wish.get("whole") else [Region(0, 0, 76, 94)]
    file = protect_photograph(model, photo, regions, b"correct horse", chosen)
    write_protected(tmp_path / "out.png", file.picture, file.header, file.depth)
    return file, regions


def test_the_file_is_what_was_made_and_the_same_bytes_for_the_same_salt(model, photo, tmp_path):
    file, _ = protected(model, photo, tmp_path)
    first = (tmp_path / "out.png").read_bytes()
    again = read_protected(tmp_path / "out.png")
    assert (again.picture == file.picture).all()
    assert again.depth == file.depth
    assert again.header.salt == SALT.hex()
    assert not again.changed
    protected(model, photo, tmp_path)
    assert (tmp_path / "out.png").read_bytes() == first
    assert not any(word in first for word in (b"correct horse", master_key(b"correct horse", SALT, CHEAP)))


def test_pixels_outside_the_regions_come_back_exactly_and_inside_as_the_flow_gives_them(model, photo, tmp_path):
    file, regions = protected(model, photo, tmp_path)
    revealed = reveal_photograph(model, read_protected(tmp_path / "out.png"), b"correct horse")
    assert revealed.picture.shape == photo.shape
    assert revealed.checked is True
    outside = np.ones(photo.shape[:2], bool)
    for region in regions:
        outside[region.slices] = False
    assert (revealed.picture[outside] == photo[outside]).all()
    assert (file.picture[:75, :93][outside] == photo[outside]).all()
    tile = file.header.tiles()[1]
    bits = key_bits(master_key(b"correct horse", SALT, CHEAP), SALT, (tile.height, tile.width), place=1)
    seen = torch.from_numpy(file.tile(1, tile)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = ((model.reveal(seen, bits)[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    assert np.abs(revealed.picture[tile.slices].astype(int) - expected.numpy()).max() <= 1
    assert np.isfinite(region_psnr(photo, revealed.picture, regions))
    assert region_psnr(photo, photo, regions) == float("inf")


def test_depth_brings_the_protected_pixels_nearer_than_8_bits(model, photo, tmp_path):
    deep, _ = protected(model, photo, tmp_path)
    size = (tmp_path / "out.png").stat().st_size
    flat, _ = protected(model, photo, tmp_path, deep=False)
    assert (tmp_path / "out.png").stat().st_size < size
    assert read_protected(tmp_path / "out.png").depth == []
    tile = deep.header.tiles()[0]
    assert np.abs(deep.tile(0, tile) - flat.tile(0, tile)).max() > 0
    assert (flat.tile(0, tile) == flat.picture[tile.slices]).all()


def test_odd_whole_photographs_come_back_in_their_own_size(model, photo, tmp_path):
    protected(model, photo, tmp_path, whole=True)
    file = read_protected(tmp_path / "out.png")
    assert file.picture.shape == (76, 94, 3)
    assert reveal_photograph(model, file, b"correct horse").picture.shape == (75, 93, 3)


def test_wrong_keys_are_refused_with_and_decoded_without_the_verifier(model, photo, tmp_path):
    protected(model, photo, tmp_path)
    with pytest.raises(BadInput, match="wrong key"):
        reveal_photograph(model, read_protected(tmp_path / "out.png"), b"correct horsf")
    protected(model, photo, tmp_path, verify=False)
    file = read_protected(tmp_path / "out.png")
    wrong = reveal_photograph(model, file, b"correct horsf")
    right = reveal_photograph(model, file, b"correct horse")
    assert wrong.checked is None
    assert not (wrong.picture == right.picture).all()


def test_other_weights_are_refused(model, photo, tmp_path):
    file, _ = protected(model, photo, tmp_path)
    other = ProFaceS(blocks=2, growth=4, perceptual="none", image_size=16)
    with pytest.raises(BadInput, match="did not protect") as error:
        reveal_photograph(other, file, b"correct horse")
    assert fingerprint(other)[:12] in str(error.value)
    assert file.header.weights[:12] in str(error.value)
    other.load_state_dict(model.state_dict())
    check_weights(other, file.header)
    other.missing = "noise"  # the same weights, used otherwise
    assert fingerprint(other) != fingerprint(model)


# --- files that are not what they should be -----------------------------------------------------------------------
def rewritten(data, change):
    """The PNG with its header chunk changed, checksum and all."""
    start = data.index(b"miPH")
    length = int.from_bytes(data[start - 4 : start], "big")
    plain = json.loads(data[start + 4 : start + 4 + length])
    change(plain)
    content = json.dumps(plain).encode()
    chunk = len(content).to_bytes(4, "big") + b"miPH" + content + zlib.crc32(b"miPH" + content).to_bytes(4, "big")
    return data[: start - 4] + chunk + data[start + 8 + length :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(format=2), "format 2"),
        (lambda h: h.update(format="1"), "format 1"),
        (lambda h: h.update(cost={"log2_n": 40}), "log2_n is 40"),
        (lambda h: h.update(salt="zz"), "hex digits"),
        (lambda h: h.update(regions=[]), "0 regions"),
        (lambda h: h.update(regions=[[0, 0, 400, 10]]), "region"),
        (lambda h: h.update(regions=[[0, 0, 10, 11]]), "region"),
        (lambda h: h.update(regions=[[0, 0, 20, 20], [10, 10, 20, 20]]), "overlap"),
        (lambda h: h.update(tile=1), "tile 1"),
        (lambda h: h.update(tile=64), "tiles have their depth"),
        (lambda h: h.update(size=[10, 10]), "region|resized"),
        (lambda h: h.update(surprise=1), "surprise"),
        (lambda h: h.pop("weights"), "weights"),
    ],
)
def test_headers_that_make_no_sense_are_one_line(model, photo, tmp_path, change, words):
    protected(model, photo, tmp_path)
    path = tmp_path / "changed.png"
    path.write_bytes(rewritten((tmp_path / "out.png").read_bytes(), change))
    with pytest.raises(BadInput, match=words) as error:
        read_protected(path)
    assert "\n" not in str(error.value)


def test_damaged_stripped_and_foreign_files_are_refused(model, photo, tmp_path):
    protected(model, photo, tmp_path)
    data = (tmp_path / "out.png").read_bytes()
    stripped = io.BytesIO()
    Image.open(io.BytesIO(data)).save(stripped, "PNG")
    cases = {
        "stripped": (stripped.getvalue(), "no header"),
        "cut": (data[:-40], "damaged|truncated"),
        "bit": (data[:-3000] + bytes([data[-3000] ^ 1]) + data[-2999:], "damaged"),
        "text": (b"hello", "PNG"),
        "empty": (b"", "PNG"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=words):
            read_protected(tmp_path / name)
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(BadInput):
            read_protected(path)


def test_a_changed_picture_is_noticed(model, photo, tmp_path):
    file, _ = protected(model, photo, tmp_path)
    write_protected(tmp_path / "out.png", file.picture, file.header, file.depth)
    data = rewritten((tmp_path / "out.png").read_bytes(), lambda h: h.update(pixels="0" * 64))
    (tmp_path / "out.png").write_bytes(data)
    assert reveal_photograph(model, read_protected(tmp_path / "out.png"), b"correct horse").changed


def test_header_says_all_that_is_needed_as_plain_json():
    header = Header("0" * 64, SALT.hex(), (10, 12), ((0, 0, 10, 12),), 256, "blur", CHEAP)
    plain = json.loads(json.dumps(header.plain()))
    assert plain["format"] == 1
    assert plain["cost"] == {"log2_n": 10, "r": 8, "p": 1}
    assert plain["method"] == "pro-face-s"


def test_guesses_are_revealed_one_by_one(model):
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    masters = [bytes([i]) * 32 for i in range(5)]
    found = revealed_by(model, picture, masters, SALT, place=3, batch=2)
    with torch.no_grad():
        expected = (model.reveal(picture, key_bits(masters[4], SALT, (16, 16), place=3)) + 1) / 2
    assert found.shape == (5, 3, 16, 16)
    assert torch.allclose(found[4:], expected, atol=1e-5)
    flat, rough = torch.full((1, 3, 4, 4), 0.5), torch.rand(1, 3, 4, 4)
    assert float(total_variation(flat)) == 0 < float(total_variation(rough))


@pytest.mark.parametrize("kind", ["blur", "pixelate", "sticker", "mask"])
def test_large_regions_look_as_if_they_were_obfuscated_at_once(kind):
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    part = np.asarray(small.resize((480, 360), Image.Resampling.BICUBIC))
    made = _obfuscated(part, kind, 1.0, 1000)
    image = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float() / 255
    expected = obfuscate(image, kind)[0].permute(1, 2, 0).numpy() * 255
    assert made.shape == part.shape
    assert np.abs(made - expected).mean() < 4
