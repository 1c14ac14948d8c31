"""Downloads that are whole or absent: resumed where they stopped, checked against a known checksum, kept in a cache folder."""

import errno
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from wellcheck.artifacts import cache_folder
from wellcheck.datasets import mirror
from wellcheck.errors import InputError
from wellcheck.progress import progress

TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 2**18
MEGABYTE = 1_000_000
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Archive:
    """A file at its home page, and how to know it."""

    url: str
    size: int  # bytes
    algorithm: Literal["sha256", "md5"]  # the strongest checksum that is published or was computed
    checksum: str


def fetch(name: str, archive: Archive) -> Path:
    """Return the verified archive of the data set `name`, downloading what the cache lacks.

    Raises InputError if there is no network (it says what to set) or if size or checksum are wrong (the damaged file is deleted).
    """
    whole = cache_folder() / archive.url.rsplit("/", 1)[-1]
    with FileLock(whole.with_name(f"{whole.name}.lock")):  # `dvc exp run --jobs` starts several downloads at once
        if whole.exists() and _differences(whole, archive):
            whole.unlink()
        if not whole.exists():
            part = whole.with_name(f"{whole.name}.part")
            _download(name, archive, part)
            if differences := _differences(part, archive):
                part.unlink()
                raise InputError(f"{whole}: {differences}; the damaged download from {archive.url} was deleted, run it again")
            part.replace(whole)
    return whole


def _differences(path: Path, archive: Archive) -> str:
    """What is wrong with a file, in words; empty if it is the one expected."""
    size = path.stat().st_size
    if size != archive.size:
        return f"found {size:,} bytes, expected {archive.size:,}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, archive.algorithm).hexdigest()
    return "" if found == archive.checksum else f"found {archive.algorithm} {found}, expected {archive.checksum}"


def _download(name: str, archive: Archive, part: Path) -> None:
    """Bring `part` to its full size, going on where it stopped as long as every connection brings something."""
    title = f"{name}: {archive.url.rsplit('/', 1)[-1]}"
    with progress(title, -(-archive.size // MEGABYTE), "MB") as advance:
        shown = 0

        def show(received: int) -> None:
            nonlocal shown
            advance(received // MEGABYTE - shown)
            shown = received // MEGABYTE

        while (have := _size(part)) < archive.size:
            reason = _receive(archive, part, have, show)
            if _size(part) <= have:
                raise InputError(f"{name}: cannot download {archive.url}: {reason}; {mirror.advice(name)}")


def _receive(archive: Archive, part: Path, have: int, show: Callable[[int], None]) -> str:
    """Append to `part` what one connection brings, or start over if the server ignores the range. Returns why it ended."""
    headers = {"User-Agent": "wellcheck"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            resumed = response.status == http.client.PARTIAL_CONTENT
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                return "the server sent another part of the file than it was asked for"
            received = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                # One byte more than expected is enough to know that it is the wrong file.
                while received <= archive.size and (block := response.read(min(BLOCK_BYTES, archive.size + 1 - received))):
                    file.write(block)
                    received += len(block)
                    show(received)
        return "the connection ended early"
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        return str(getattr(error, "reason", None) or error or type(error).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
