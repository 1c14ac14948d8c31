"""The user's own folder of images: `<class>/<image>`, or `train/<class>/<image>` and `test/<class>/<image>`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from wellcheck.datasets.decoding import Encoded, Named, source_of_encoded
from wellcheck.datasets.source import Source, class_name, printable
from wellcheck.errors import InputError
from wellcheck.params import Dataset

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
TEST_FOLDERS = ("test", "val", "validation", "valid")  # the first that is there
MAX_FILE_BYTES = 512 * 2**20


def open_folder(dataset: Dataset) -> Source:
    """Images in the order of their names, class by class. Raises InputError naming the file or folder and what was expected."""
    root = Path(dataset.path)
    if not root.is_dir():
        raise InputError(f"dataset.path: {root} is not a folder; expected <class>/<image> or train/<class>/<image> in it")
    train_folder, test_folder = find_splits(root)
    names = class_folders(train_folder, root)
    test = None
    if test_folder is not None:
        check_same_classes(train_folder, names, test_folder, class_folders(test_folder, root))
        test = _encoded(test_folder, names, root)
    class_names = tuple(map(class_name, names))
    return source_of_encoded(class_names, dataset.path, train=_encoded(train_folder, names, root), test=test, dataset=dataset)


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """The folders that hold the classes of the training and of the test split."""
    inside = {entry.name: entry for entry in _entries(root, root) if entry.is_dir()}
    train = inside.get("train")
    # Images directly in `train` are pictures of trains: a class, not a split.
    if train is None or not any(entry.is_dir() for entry in _entries(train, root)):
        return root, None
    return train, next((inside[name] for name in TEST_FOLDERS if name in inside), None)


def class_folders(folder: Path, root: Path) -> list[str]:
    """The names of the class folders, sorted. Raises InputError if there are none."""
    names = [entry.name for entry in _entries(folder, root) if entry.is_dir()]
    if not names:
        raise InputError(f"{folder}: no class folders; expected <class>/<image>, one folder for each class")
    return names


def check_same_classes(train_folder: Path, train: list[str], test_folder: Path, test: list[str]) -> None:
    """Raises InputError naming a class folder that only one of the splits has."""
    for here, mine, there, others in ((train_folder, train, test_folder, test), (test_folder, test, train_folder, train)):
        only = sorted(set(mine) - set(others))
        if only:
            raise InputError(f"{here} has a class folder '{printable(only[0])}' that {there} lacks; both need the same class folders")


def list_images(folder: Path, root: Path) -> list[Path]:
    """Every image below a class folder, sorted. Raises InputError if there is none, or on a symbolic link that leads out of `root`."""
    real = folder.resolve()
    files = list(_walk(folder, root, frozenset({real, *real.parents})))
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        skipped = f" ({len(files)} files of other kinds were skipped)" if files else ""
        raise InputError(f"{_shown(folder.parent)}: class folder '{printable(folder.name)}' has no images{skipped}")
    return images


def _encoded(folder: Path, names: list[str], root: Path) -> Encoded:
    images = [list_images(folder / name, root) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(files) for files in images])
    files = [file for of_class in images for file in of_class]
    # Within the folder: where that lies on this machine is nobody's business.
    return Encoded(labels, partial(_read, files), lambda: (printable(file.relative_to(root).as_posix()) for file in files))


def _read(files: list[Path]) -> Iterator[Named]:
    for file in files:
        where = _shown(file)
        try:
            size = file.stat().st_size
            if size > MAX_FILE_BYTES:
                raise InputError(f"{where}: {size:,} bytes, expected at most {MAX_FILE_BYTES:,}")
            yield where, file.read_bytes()
        except OSError as error:
            raise InputError(f"{where}: cannot be read: {error.strerror}") from None


def _walk(folder: Path, root: Path, above: frozenset[Path]) -> Iterator[Path]:
    for entry in _entries(folder, root):
        if entry.is_file():
            yield entry
        elif entry.is_dir():
            real = entry.resolve()
            if real in above:
                raise InputError(f"{_shown(entry)}: a symbolic link back to a folder it is in")
            yield from _walk(entry, root, above | {real})


def _entries(folder: Path, root: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden entries; links are followed only within `root`."""
    try:
        entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{_shown(folder)}: cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.is_symlink():
            check_link(entry, root)
    return entries


def check_link(path: Path, root: Path) -> None:
    """Raises InputError if a symbolic link leads nowhere or out of `root`."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a ring of links, before Python 3.13
        raise InputError(f"{_shown(path)}: a symbolic link that leads nowhere") from None
    if not target.is_relative_to(root.resolve()):
        raise InputError(f"{_shown(path)}: a symbolic link that leads out of {_shown(root)}; put a copy of the file in its place")


def _shown(path: Path) -> str:
    return printable(str(path))
