# SPDX-License-Identifier: Apache-2.0
"""Images that lie in a zip archive: `faces.zip/a/1.jpg` names a member as a path would. Nothing is ever unpacked.

An archive is not trusted: members are found by their exact name, what they would grow to is read from the directory
and checked before anything is decompressed, and the reading stops at the cap whatever the directory says.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from mien.data.listing import printable
from mien.errors import BadInput

MAX_MEMBERS = 2_000_000
_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def inside_zip(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """The archive and the name inside it, for a path that leads through a .zip file; None for any other path.

    >>> inside_zip("no/such/file.jpg") is None
    True
    """
    path = Path(path)
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(archive: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the files in an archive, in its own order, without folders.

    Raises:
        BadInput: It is no zip archive, is damaged, or holds more than `MAX_MEMBERS` entries.
    """
    return tuple(info.filename for info in _opened(Path(archive)).infolist() if not info.is_dir())


def read_member(archive: str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    """The content of one file in an archive.

    Args:
        archive: The zip file.
        name: The member's name, with slashes.
        max_bytes: The most that it may grow to.

    Raises:
        BadInput: No such member, larger than allowed, encrypted, packed in an unknown way, or damaged.
    """
    shown = printable(f"{archive}/{name}")
    opened = _opened(Path(archive))
    try:
        info = opened.getinfo(name)
    except KeyError as error:
        raise BadInput(f"{shown}: the archive has no such file") from error
    if info.file_size > max_bytes:
        raise BadInput(f"{shown}: {info.file_size:,} bytes, at most {max_bytes:,} are allowed")
    try:
        with opened.open(info) as stream:
            data = stream.read(max_bytes + 1)
    except _ERRORS as error:
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise BadInput(f"{shown}: cannot be read ({reason})") from error
    if len(data) > max_bytes:
        raise BadInput(f"{shown}: more than the {max_bytes:,} bytes that are allowed")
    return data


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        status = archive.stat()
        opened = _archive(str(archive), os.getpid(), status.st_mtime_ns, status.st_size)
    except _ERRORS as error:
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise BadInput(f"{printable(str(archive))}: cannot be read as a zip archive ({reason})") from error
    if len(opened.filelist) > MAX_MEMBERS:
        raise BadInput(f"{printable(str(archive))}: more than {MAX_MEMBERS:,} entries")
    return opened


@lru_cache(maxsize=4)
def _archive(path: str, process: int, modified: int, size: int) -> zipfile.ZipFile:
    """An open archive. Reading its directory anew for every image would take longer than the image.

    A process that was forked must not share the open file, and a file that changed must be opened again: hence the
    arguments beside the path.
    """
    return zipfile.ZipFile(path)
