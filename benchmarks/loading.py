"""How fast does `open_images` read a folder or zip of images, compared with PIL in one thread?

    python benchmarks/loading.py cifar10-train.zip

Both read every file and decode it into one array uint8 [N, C, H, W]; ours also writes its cache
entry (with SHA-256), if the set is large enough for one. They alternate, so that other work on the
machine affects both alike, and their pixels must be equal.
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from memaudit.data.readers.decoding import SUFFIXES
from memaudit.data.sources import open_images


def read_with_pil(path: Path) -> np.ndarray:
    """Read the plain way, one file after the other."""
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return decode_with_pil(files, lambda name: Path(name).read_bytes())
    with zipfile.ZipFile(path) as archive:
        files = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
        return decode_with_pil(files, archive.read)


def decode_with_pil(files: list[str], read: Callable[[str], bytes]) -> np.ndarray:
    """Decode files to uint8 [N, C, H, W]."""
    first = np.atleast_3d(np.asarray(Image.open(io.BytesIO(read(files[0])))))
    images = np.empty([len(files), *first.transpose(2, 0, 1).shape], np.uint8)
    for i, file in enumerate(files):
        image = np.asarray(Image.open(io.BytesIO(read(file))))
        images[i] = np.atleast_3d(image).transpose(2, 0, 1)
    return images


def read_with_memaudit(path: Path) -> np.ndarray:
    """Read our way, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache_dir:
        return open_images(path, cache_dir=cache_dir).images


def timed(read: Callable[[Path], np.ndarray], path: Path) -> tuple[float, np.ndarray]:
    """Return the seconds that reading took, and what was read."""
    start = time.perf_counter()
    images = read(path)
    return time.perf_counter() - start, images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder or zip of images")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    pil, ours, ratios = [], [], []
    for repeat in range(options.repeats + 1):
        pil_seconds, expected = timed(read_with_pil, options.path)
        our_seconds, images = timed(read_with_memaudit, options.path)
        assert np.array_equal(images, expected), "the pixels differ"
        if repeat > 0:  # the first warms up
            pil.append(pil_seconds)
            ours.append(our_seconds)
            ratios.append(pil_seconds / our_seconds)

    print(f"{options.path.name}: uint8 {list(images.shape)}, {options.repeats} repeats, medians")
    print(f"PIL, one thread  {statistics.median(pil):.2f} s")
    print(f"open_images      {statistics.median(ours):.2f} s")
    print(f"ratio            {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Pillow {PIL.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
