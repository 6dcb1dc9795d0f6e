# SPDX-License-Identifier: Apache-2.0
"""From a passphrase to the bits that steer a protection.

    master = scrypt(passphrase, salt, N, r, p), 32 bytes, once for a file: slow and hungry for memory on purpose
    bits   = SHAKE-256(purpose, version, salt, size, place, master): as many as there are pixels, in no time

Every bit by the slow function would take half an hour for a photograph of 1920 x 1080. The salt lies in the file, the
key nowhere. scrypt (RFC 7914) and SHAKE-256 (FIPS 202) are those of Python's `hashlib`, which is OpenSSL's code: it is
maintained, everybody has it, and a package such as `cryptography` would call the same functions.

    >>> salt = bytes(16)
    >>> master = master_key(b"correct horse", salt, Cost(log2_n=10))
    >>> key_bits(master, salt, (2, 4), place=0).shape
    torch.Size([1, 1, 2, 4])
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mien.errors import BadInput

VERSION = 1
"""Of the derivation: another number gives other bits."""
SALT_BYTES = 16
VERIFIER_BYTES = 4
SHORT = 12
"""Passphrases of fewer bytes draw a warning."""
MOST_KEY_FILE = 2**20


@dataclass(frozen=True)
class Cost:
    """What a guess costs.

    Args:
        log2_n: Logarithm of scrypt's N, 10 to 20; memory is 128 r N bytes. 17 takes 128 MiB and 0.3 s.
        r: Block size, 1 to 32.
        p: Passes one after the other, 1 to 16.

    Raises:
        BadInput: A value out of range; a stranger's file must not ask for more memory than there is.
    """

    log2_n: int = 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (("log2_n", 10, 20), ("r", 1, 32), ("p", 1, 16)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise BadInput(f"the key's cost {name} is {value}: it must be a whole number from {low} to {high}")
        if 128 * self.r * 2**self.log2_n > 2**30:
            raise BadInput(f"the key's cost needs {128 * self.r * 2**self.log2_n:,} bytes: at most 1 GiB is allowed")


def read_passphrase(path: str | Path) -> bytes:
    """The file's bytes, less one newline (LF or CR LF) at its end.

    Raises:
        BadInput: No such file, a folder, nothing in it, or more than 1 MiB.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"key file {path}: {'not a file' if path.exists() else 'no such file'}")
    if path.stat().st_size > MOST_KEY_FILE:
        raise BadInput(f"key file {path}: {path.stat().st_size:,} bytes, at most {MOST_KEY_FILE:,} are allowed")
    data = path.read_bytes()
    if data.endswith(b"\n"):
        data = data[:-2] if data.endswith(b"\r\n") else data[:-1]
    if not data:
        raise BadInput(f"key file {path} holds no passphrase: it is empty")
    return data


def new_salt() -> bytes:
    """16 bytes from the system's generator."""
    return secrets.token_bytes(SALT_BYTES)


def check_salt(salt: bytes) -> bytes:
    """The salt, if it has 16 bytes. Raises BadInput otherwise."""
    if len(salt) != SALT_BYTES:
        raise BadInput(f"the salt has {len(salt)} bytes: it must have {SALT_BYTES} ({2 * SALT_BYTES} hex digits)")
    return salt


def master_key(passphrase: bytes, salt: bytes, cost: Cost = Cost()) -> bytes:
    """The slow part: 32 bytes from passphrase and salt.

    Raises:
        BadInput: An empty passphrase or a salt of another length.
    """
    if not passphrase:
        raise BadInput("the passphrase is empty")
    n = 2**cost.log2_n
    memory = 128 * cost.r * (n + cost.p + 2)
    return hashlib.scrypt(passphrase, salt=check_salt(salt), n=n, r=cost.r, p=cost.p, maxmem=2 * memory, dklen=32)


def expand(master: bytes, salt: bytes, purpose: str, *numbers: int, count: int) -> bytes:
    """`count` bytes for a purpose, a version and numbers (size, place), all of fixed or stated length.

    No two different calls feed SHAKE-256 the same bytes, and their outputs share nothing that can be told.
    """
    name = purpose.encode()
    words = b"".join(int(number).to_bytes(8, "big") for number in (VERSION, len(numbers), *numbers))
    return hashlib.shake_256(len(name).to_bytes(8, "big") + name + words + check_salt(salt) + master).digest(count)


def key_bits(master: bytes, salt: bytes, size: tuple[int, int], *, place: int) -> Tensor:
    """The key of one region: (1, 1, H, W) of -1 and +1, float32.

    Args:
        master: What `master_key` gave.
        salt: The file's salt.
        size: H and W in pixels.
        place: Number of the region in its file, from 0.
    """
    height, width = size
    data = expand(master, salt, "pro-face-s key bits", height, width, place, count=-(-height * width // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: height * width]
    return torch.from_numpy(bits.astype(np.float32)).mul_(2).sub_(1).view(1, 1, height, width)


def verifier(master: bytes, salt: bytes) -> bytes:
    """Four bytes that tell a wrong key without decoding. Who has them can try guesses offline, one scrypt each."""
    return expand(master, salt, "pro-face-s verifier", count=VERIFIER_BYTES)


def verified(master: bytes, salt: bytes, expected: bytes) -> bool:
    """Whether the verifier is that of the key; compared in constant time."""
    return hmac.compare_digest(verifier(master, salt), expected)


def random_bits(count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
    """Keys of training: (count, 1, H, W) of -1 and +1, from torch's global generator unless another is given."""
    return torch.randint(0, 2, (count, 1, *size), generator=generator).float() * 2 - 1
