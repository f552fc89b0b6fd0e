"""CIFAR-10 from a prepared tensorflow-datasets folder or from the official archive."""

import hashlib
import io
import os
import pickle
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import numpy as np

from deepzero_jax.data.dataset import Dataset
from deepzero_jax.files import read_arrays

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2471, 0.2435, 0.2616)
# SHA-256 of the two archives that the data set's authors publish.
ARCHIVES = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}
_TRAIN, _TEST = ("train_images", "train_labels"), ("test_images", "test_labels")
_NUM_TRAIN, _NUM_TEST = 50_000, 10_000
_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]

# Images and labels; of training and test.
Split = tuple[np.ndarray, np.ndarray]
Splits = tuple[Split, Split]


def load_cifar10(
    directory: str | None = None, archive: str | None = None, cache: Path | None = None
) -> Dataset:
    """Loads CIFAR-10 into memory: 50,000 training and 10,000 test images, 32 × 32 × 3.

    Nothing is downloaded. Without ``archive`` the prepared data set is looked for in
    ``directory``, else in ``$TFDS_DATA_DIR``, else in ``~/tensorflow_datasets``; an
    official archive lying there serves as well.

    Args:
      directory: a tensorflow-datasets data directory (it holds ``cifar10/3.0.2``).
      archive: path of ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``.
      cache: folder for a decoded copy (184 MB) of a prepared data set, which is read in its
        place for as long as the prepared files stay as they are; None: none is kept.

    Raises:
      FileNotFoundError: not there; the message names the three ways to get it.
      ValueError: damaged: an archive of another digest, or records that cannot be read.
    """
    if archive is not None:
        return _dataset(*_read_archive(Path(archive).expanduser()))
    root = Path(
        directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    for prepared in sorted((root / "cifar10").glob("*/dataset_info.json"), reverse=True):
        if b"array_record" in prepared.read_bytes():
            return _dataset(*_read_through(cache, prepared.parent))
    for name in ARCHIVES:
        if (root / name).is_file():
            return _dataset(*_read_archive(root / name))
    raise FileNotFoundError(
        f"CIFAR-10 is not prepared in {root}. Three ways out: "
        '(1) with internet access: pip install "deepzero-jax[data]" && '
        "python -m deepzero_jax.data.cifar10; "
        "(2) copy a prepared folder from another machine and name the directory that holds "
        "cifar10/3.0.2 in TFDS_DATA_DIR or --config.data.dir; "
        "(3) put the official cifar-10-python.tar.gz on disk and name it in --config.data.archive"
    )


def prepare(directory: str | None = None) -> None:
    """Downloads CIFAR-10 and prepares it as array records. Needs the ``data`` extra."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10", data_dir=directory, file_format="array_record")
    builder.download_and_prepare()


def _dataset(train: Split, test: Split) -> Dataset:
    return Dataset(*train, *test, num_classes=10, mean=MEAN, std=STD)


def _read_through(cache: Path | None, folder: Path) -> Splits:
    """What ``_read_prepared`` gives, from the decoded copy where there is a sound one."""
    if cache is None:
        return _read_prepared(folder)
    files = sorted(path for path in folder.resolve().iterdir() if path.is_file())
    origin = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    copy = cache / "cifar10.npz"
    # A copy that is damaged fails the checksums of its members, and is made anew.
    with suppress(ValueError, KeyError):
        kept = read_arrays(copy)
        train, test = ((kept[a], kept[b]) for a, b in (_TRAIN, _TEST))
        if kept["origin"].tolist() == [*origin, _digest(train, test)]:
            return train, test
    train, test = _read_prepared(folder)
    # None is kept on a full disk or in a folder that cannot be written.
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            arrays = dict(zip((*_TRAIN, *_TEST), (*train, *test), strict=True))
            marks = [*origin, _digest(train, test)]
            np.savez(Path(unfinished, copy.name), allow_pickle=False, origin=marks, **arrays)
            Path(unfinished, copy.name).replace(copy)
    return train, test


def _digest(train: Split, test: Split) -> str:
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_prepared(folder: Path) -> Splits:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        splits = []
        for split, expected in (("train", _NUM_TRAIN), ("test", _NUM_TEST)):
            # Annotated as a class whose method has no such arguments.
            source = builder.as_data_source(
                split=split,  # pyright: ignore[reportCallIssue]
                decoders={"image": tfds.decode.SkipDecoding()},  # pyright: ignore[reportCallIssue]
            )
            records = source.__getitems__(range(expected))
            splits.append(_decode(records))
    except Exception as error:  # tfds and array_record raise many kinds for a damaged file
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"the prepared CIFAR-10 in {folder} cannot be read "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}): "
            "its files are damaged or incomplete; copy or prepare them again"
        ) from error
    return splits[0], splits[1]


class Record(TypedDict):
    """An image as the prepared files hold it."""

    id: bytes
    image: bytes
    label: int


def _decode(records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    # The file keeps a shuffled order; the identifiers give the official one.
    records = sorted(records, key=lambda record: record["id"])
    images = [_decode_png(record["image"]) for record in records]
    labels = np.array([record["label"] for record in records], np.int32)
    return np.stack(images), labels


def _decode_png(encoded: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image, np.uint8)


def _read_archive(path: Path) -> Splits:
    if path.name not in ARCHIVES:
        raise ValueError(
            f"{path} is not an official CIFAR-10 archive; known: {', '.join(ARCHIVES)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no archive at {path}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Checked before anything is unpacked: the python archive holds pickles.
    if digest != ARCHIVES[path.name]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {digest}, the official one is "
            f"{ARCHIVES[path.name]}; download it again"
        )
    binary = "binary" in path.name
    read = _read_binary_batch if binary else _read_python_batch
    suffix = ".bin" if binary else ""
    batches = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = Path(member.name).name
            file = archive.extractfile(member)
            if file is not None and name.startswith(("data_batch_", "test_batch")):
                batches[name] = read(file.read())
    train = [batches[name + suffix] for name in _BATCHES]
    images = np.concatenate([batch[0] for batch in train])
    labels = np.concatenate([batch[1] for batch in train])
    return (images, labels), batches["test_batch" + suffix]


def _read_python_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = pickle.loads(content, encoding="latin1")
    return _planes_to_images(batch["data"]), np.array(batch["labels"], np.int32)


def _read_binary_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3072)
    return _planes_to_images(rows[:, 1:]), rows[:, 0].astype(np.int32)


def _planes_to_images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


if __name__ == "__main__":
    prepare(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TFDS_DATA_DIR"))
