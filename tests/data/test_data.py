import hashlib
import io
import pickle
import tarfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.data import (
    Dataset,
    balanced_indices,
    check_batch_size,
    cifar10,
    crop_and_flip,
    epoch_indices,
    load_cifar10,
    load_digits,
    random_crop,
    random_flip,
)
from deepzero_jax.data.dataset import check_dataset
from tests.marks import long, thorough


def test_digits_need_no_download_and_are_split_fairly():
    digits = load_digits()
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8
    assert np.bincount(digits.test_labels).min() >= 34
    normal = digits.normalise(digits.train_images)
    assert abs(float(normal.mean())) < 1e-3
    assert float(normal.std()) == pytest.approx(1.0, abs=1e-3)


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own():
    key = jax.random.key(0)
    draw = jax.jit(lambda step: epoch_indices(key, step, 40, 8))
    epochs = [np.concatenate([draw(e * 5 + i) for i in range(5)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(40))
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(draw(7), epoch_indices(key, 7, 40, 8))


@pytest.mark.parametrize("size", [1, 2, 3, 17, 50, 1437])
def test_every_size_is_shuffled_whole(size):
    order = epoch_indices(jax.random.key(1), 0, size, size)
    assert order.dtype == jnp.int32
    assert sorted(order.tolist()) == list(range(size))


def test_every_image_is_as_likely_at_every_place_and_beside_every_other():
    size, epochs = 10, 20_000
    key = jax.random.key(2)
    orders = np.asarray(jax.vmap(lambda e: epoch_indices(key, e, size, size))(jnp.arange(epochs)))
    places = np.array([np.bincount(orders[:, i], minlength=size) for i in range(size)])
    steps = np.bincount((orders[:, 1:] - orders[:, :-1]).ravel() % size, minlength=size)[1:]
    for counts in (places.ravel(), steps):
        expected = counts.mean()
        chi_square = np.sum((counts - expected) ** 2) / expected
        # Its mean is about the number of counts, its standard deviation the root of twice that.
        assert chi_square < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_balanced_indices():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    chosen = balanced_indices(jax.random.key(0), labels, 3, 2)
    assert np.bincount(labels[chosen]).tolist() == [2, 2, 2]
    assert len(set(chosen.tolist())) == 6
    with pytest.raises(ValueError, match="class 1 has 3 images"):
        balanced_indices(jax.random.key(0), labels, 3, 4)


def test_normalised_images_are_float32_whatever_jax_has(x64):
    dataset = load_digits()
    assert dataset.normalise(dataset.test_images[:2]).dtype == jnp.float32


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="1437 training images, got 1438"):
        check_batch_size(1438, load_digits())


def test_crop_and_flip_move_pixels_only():
    images = jnp.arange(2 * 6 * 6, dtype=jnp.uint8).reshape(2, 6, 6, 1) + 1
    flipped = random_flip(jax.random.key(0), jnp.tile(images, (20, 1, 1, 1)))
    as_is = np.all(np.asarray(flipped) == np.tile(images, (20, 1, 1, 1)), axis=(1, 2, 3))
    assert 8 < as_is.sum() < 32
    assert np.array_equal(flipped[~as_is][0], np.tile(images, (20, 1, 1, 1))[~as_is][0][:, ::-1])
    cropped = np.asarray(random_crop(jax.random.key(1), images, padding=2))
    padded = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = [padded[0, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    assert any(np.array_equal(cropped[0], window) for window in windows)
    assert crop_and_flip(jax.random.key(2), images).dtype == jnp.uint8


def fake_batches(seed=0, per_batch=20):
    rng = np.random.default_rng(seed)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {
        name: (
            rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
            rng.integers(0, 10, per_batch),
        )
        for name in names
    }


def write_archive(path, batches):
    binary = "binary" in path.name
    folder = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    with tarfile.open(path, "w:gz") as archive:
        for name, (pixels, labels) in batches.items():
            if binary:
                rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
                name, content = name + ".bin", rows.tobytes()
            else:
                content = pickle.dumps({"data": pixels, "labels": labels.tolist()})
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", list(cifar10.ARCHIVES))
def test_official_archive_layouts_are_read(tmp_path, monkeypatch, name):
    batches = fake_batches()
    digest = write_archive(tmp_path / name, batches)
    monkeypatch.setitem(cifar10.ARCHIVES, name, digest)
    for data in (load_cifar10(archive=str(tmp_path / name)), load_cifar10(str(tmp_path))):
        assert data.train_images.shape == (100, 32, 32, 3)
        pixels, labels = batches["data_batch_1"]
        assert np.array_equal(data.train_labels[:20], labels)
        assert data.train_images[3, 5, 7, 1] == pixels[3, 1024 + 5 * 32 + 7]
        assert np.array_equal(data.test_labels, batches["test_batch"][1])


def test_archive_of_another_digest_is_refused_before_it_is_opened(tmp_path):
    write_archive(tmp_path / "cifar-10-python.tar.gz", fake_batches())
    with pytest.raises(ValueError, match="damaged: its SHA-256 is"):
        load_cifar10(archive=str(tmp_path / "cifar-10-python.tar.gz"))
    with pytest.raises(ValueError, match="not an official CIFAR-10 archive"):
        load_cifar10(archive=str(tmp_path / "other.zip"))


def test_missing_data_name_three_ways_out_at_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load_cifar10(str(tmp_path))
    assert time.monotonic() - started < 10
    for way in ('"deepzero-jax[data]"', "TFDS_DATA_DIR", "cifar-10-python.tar.gz"):
        assert way in str(caught.value)


@thorough
@pytest.mark.cifar10
def test_real_cifar10_is_whole_and_in_the_official_order():
    data = load_cifar10()
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [5_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
    # The first test labels of the official files: cat, ship, ship, plane, frog, frog.
    assert data.test_labels[:6].tolist() == [3, 8, 8, 0, 6, 6]
    means = (data.train_images / 255.0).mean((0, 1, 2))
    assert np.allclose(means, data.mean, atol=1e-3)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A prepared folder whose reading is counted; its cache."""
    folder = tmp_path / "tfds/cifar10/3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    reads = []

    def read(where):
        reads.append(where)
        images = np.arange(4 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8)
        split = images.reshape(4, 32, 32, 3), np.arange(4, dtype=np.int32)
        return split, split

    monkeypatch.setattr(cifar10, "_read_prepared", read)
    return folder, tmp_path / "cache", reads


def load_prepared(folder, cache):
    return load_cifar10(str(folder.parent.parent), cache=cache)


def test_a_decoded_copy_is_read_in_place_of_the_prepared_files(prepared):
    folder, cache, reads = prepared
    first, second = load_prepared(folder, cache), load_prepared(folder, cache)
    assert len(reads) == 1
    for one, other in zip(first[:4], second[:4], strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert [path.name for path in cache.iterdir()] == ["cifar10.npz"]


def test_a_copy_that_is_stale_or_damaged_is_made_anew(prepared):
    folder, cache, reads = prepared
    load_prepared(folder, cache)
    (folder / "features.json").write_text("{}")
    load_prepared(folder, cache)
    assert len(reads) == 2
    copy = cache / "cifar10.npz"
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    found = load_prepared(folder, cache)
    assert len(reads) == 3
    assert np.array_equal(found.train_images.ravel()[:256], np.arange(256))
    copy.write_bytes(content[: len(content) // 2])
    load_prepared(folder, cache)
    load_prepared(folder, cache)
    assert len(reads) == 4


def test_without_a_place_for_the_copy_all_is_read(prepared):
    folder, cache, reads = prepared
    cache.write_text("in the way")
    load_prepared(folder, cache)
    load_prepared(folder, None)
    assert len(reads) == 2


@long
@pytest.mark.cifar10
def test_damaged_prepared_data_are_named(tmp_path):
    import os
    import shutil
    from pathlib import Path

    source = next(Path(os.environ["TFDS_DATA_DIR"]).glob("cifar10/*"))
    copy = tmp_path / "cifar10" / source.name
    shutil.copytree(source, copy)
    record = next(copy.glob("*test*array_record*"))
    record.chmod(0o644)
    content = record.read_bytes()
    record.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_images": np.zeros((4, 8, 8, 1), np.uint8)}, "training and for test must be alike"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be finite positive numbers"),
        ({"mean": (0.0, float("nan"), 0.0)}, "mean must be finite numbers"),
        ({"mean": ("a", 0.0, 0.0)}, "mean must be finite numbers"),
        ({"train_labels": np.zeros(4)}, "train_labels must be integers, got float64"),
        ({"test_labels": np.zeros(4, bool)}, "test_labels must be integers, got bool"),
        ({"num_classes": 2.5}, "num_classes must be an integer, got 2.5"),
        ({"mean": 0.4}, r"mean .* an entry for each of the 3 channels, got 0.4: give \(…, …, …\)"),
        ({"std": None}, "std .* an entry for each of the 3 channels, got None"),
        ({"mean": (0.4,)}, r"mean .* an entry for each of the 3 channels, got \(0.4,\)"),
        ({"std": (1.0, 1e-60, 1.0)}, "std must be finite positive numbers of float32"),
        ({"mean": (1e60, 0.0, 0.0)}, "mean must be finite numbers of float32"),
        ({"train_images": np.zeros((4, 0, 8, 3), np.uint8)}, "train_images .* no pixel"),
    ],
)
def test_a_data_set_that_does_not_hold_together_is_named(changes, words):
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32)
    good = Dataset(images, labels, images, labels, 2, (0.0,) * 3, (1.0,) * 3)
    check_dataset(good, "mine")
    with pytest.raises(ValueError, match=f"data set 'mine'.*{words}"):
        check_dataset(good._replace(**changes), "mine")


def test_a_description_that_is_no_text_is_passed_over(tmp_path):
    folder = tmp_path / "cifar10/3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FileNotFoundError, match="CIFAR-10 is not prepared in"):
        load_cifar10(str(tmp_path))
