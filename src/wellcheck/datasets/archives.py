"""Members of tar and zip archives, read in memory: nothing is extracted to disk, and no member may be larger than expected."""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wellcheck.artifacts import first_line
from wellcheck.errors import InputError

MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 2 * 2**30


def read_tar(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Regular files of a .tar.gz whose whole name matches, in archive order. Raises InputError naming the archive and the member."""
    total = 0
    with _readable(path), tarfile.open(path, "r|gz") as archive:
        for member in archive:
            total += member.size
            _check_size(path, member.name, member.size, total)
            match = pattern.fullmatch(member.name)
            if match is None or not member.isreg():
                continue
            file = archive.extractfile(member)
            assert file is not None  # a regular file has content
            yield match, file.read()


def list_zip(path: Path, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """Names in a zip that match as a whole, sorted. Raises InputError naming the archive."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        return [match for name in sorted(set(archive.namelist())) if (match := pattern.fullmatch(name))]


def read_zip(path: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """These members of a zip with their names, in this order. Raises InputError naming the archive and the member."""
    total = 0
    with _readable(path), zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                member = archive.getinfo(name)
            except KeyError:
                raise InputError(f"{path}: '{name}' is missing") from None
            total += member.file_size
            _check_size(path, name, member.file_size, total)
            # zipfile stops at the size that the directory states, so a lie about it ends in a checksum error, not in a bomb.
            yield name, archive.read(member)


def _check_size(path: Path, name: str, size: int, total: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{path}: '{name}' has {size:,} bytes, expected at most {MAX_MEMBER_BYTES:,}")
    if total > MAX_TOTAL_BYTES:
        raise InputError(f"{path}: more than {MAX_TOTAL_BYTES:,} bytes when unpacked")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable archive: {first_line(error)}") from None
