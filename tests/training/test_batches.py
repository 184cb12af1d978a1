"""The images that each step sees."""

import json
from pathlib import Path

import numpy as np
import torch

from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.training.batches import Batches, add_mirror_images

CPU = torch.device("cpu")


def numbered_images(num: int, labels: np.ndarray | None = None) -> ImageSet:
    images = np.arange(num, dtype=np.uint8).reshape(num, 1, 1, 1)
    return ImageSet(images, [str(i) for i in range(num)], labels=labels)


def batches(images: ImageSet, *, batch_size: int, seed: int = 0, label_dim: int = 0) -> Batches:
    return Batches(images, batch_size=batch_size, seed=seed, label_dim=label_dim, device=CPU)


def shown(y: torch.Tensor) -> list[int]:
    return ((y.flatten() + 1) * 127.5).round().int().tolist()


def test_images_come_in_the_published_order(golden: Path):
    orders = json.loads((golden / "training_numbers.json").read_text())["infinite_sampler"]
    orders = [o for o in orders if o["window_size"] == 0.0 and o["num_replicas"] == 1]
    assert orders
    for order in orders:
        stream = batches(numbered_images(order["n"]), batch_size=6, seed=order["seed"])
        seen = [index for step in range(10) for index in shown(stream.at(step).y)]
        assert seen == order["first_60"]


def test_a_batch_larger_than_the_training_set_repeats_it():
    y = batches(numbered_images(3), batch_size=7).at(2).y
    assert sorted(np.bincount(shown(y))) == [2, 2, 3]


def test_images_are_floats_of_their_bytes_and_labels_one_hot():
    images = numbered_images(5, labels=np.array([0, 2, 1, 2, 0]))
    y, class_labels = batches(images, batch_size=5, label_dim=3).at(0)
    assert class_labels is not None
    indices = shown(y)
    assert torch.equal(y, uint8_to_float(torch.tensor(images.images))[indices])
    assert torch.equal(class_labels, torch.eye(3)[images.labels[indices]])


def test_a_read_only_memory_map_can_be_trained_on(tmp_path: Path):
    np.save(tmp_path / "images.npy", numbered_images(4).images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    images = ImageSet(mapped, ["a", "b", "c", "d"])
    assert sorted(shown(batches(images, batch_size=4).at(0).y)) == [0, 1, 2, 3]


def test_mirrored_images_come_with_the_names_and_labels_of_theirs():
    pixels = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
    images = ImageSet(pixels, ["a", "b"], labels=np.array([0, 1]))
    both = add_mirror_images(images)
    assert np.array_equal(both.images[:2], pixels)
    assert np.array_equal(both.images[2:, ..., 0], pixels[..., 1])
    assert np.array_equal(both.images[2:, ..., 1], pixels[..., 0])
    assert both.names == ["a", "b", "a", "b"]
    assert both.labels.tolist() == [0, 1, 0, 1]
