"""How fast does `open_images` read sets of each form and size, compared with PIL in one thread?

    python benchmarks/loading.py cifar10-train.zip

Sets are made of the images given: mosaics of them, enlarged twice, so that larger ones have as much
detail. Plainly, every image is read with the form's own library and decoded with PIL into one array
uint8 [N, C, H, W]. Ours reads with an empty cache, which it fills, with the SHA-256 of all pixels;
then again from the cache. The three alternate, so that other work on the machine affects all alike,
and their pixels must be equal. Times are of the CPU, of all threads, since the wall clock of a
shared machine says little; wall times are given beside them.
"""

import io
import os
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import lmdb
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from result import make_heading, make_parser, write_record

from memaudit.data import sources
from memaudit.data.readers.decoding import decode_image
from memaudit.data.sources import open_images

NUM_PIXELS = 16 << 20
"""Pixels of a set, whatever the size of its images: 16,384 of 32x32, 16 of 1,024x1,024."""
SIZES = (32, 64, 256, 1024)
FORMS_AT = 64
"""The size at which all forms are compared."""


class Form(NamedTuple):
    """A form of a set: what it is called, how it is written, and how it is read plainly."""

    name: str
    suffix: str
    codec: str | None
    """PIL's name of the images' format, or None where pixels are stored."""
    write: Callable[[Path, list], None]
    read: Callable[[Path], Iterator]


def main() -> None:
    """Measure and write the record."""
    options = make_parser(__doc__).parse_args()
    device = torch.device("cpu")
    sources.MAPPED_FROM = 0  # every set is cached, as larger ones are
    originals = open_images(options.train, cache_dir=False).images
    lines = [
        *make_heading("Loading images, against PIL in one thread", device),
        f"Pillow {PIL.__version__}, h5py {h5py.__version__}, pyarrow {pa.__version__}, lmdb "
        f"{lmdb.__version__}. Medians of {options.rounds} rounds after one that warms up.",
        "",
        "## Decoding alone, one thread, no files: microseconds of CPU per image",
        "",
        "| JPEG | PIL | memaudit | ratio | torchvision's decoder alone: the floor |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        lines.append(time_decoding(make_images(originals, size), options.rounds))
    lines += [
        "",
        "## From the files to an array: seconds of CPU (of the wall clock)",
        "",
        "Ours writes the cache and takes the SHA-256 as well. Ratios are of CPU times: per core.",
        "",
        "| set | plain | `open_images` | ratio (lowest-highest) | from the cache | ratio |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            images = make_images(originals, size)
            for form in FORMS if size == FORMS_AT else FORMS[:1]:
                path = Path(folder) / f"{form.name} {size}{form.suffix}".replace(" ", "_")
                form.write(path, encoded(images, form.codec))
                lines.append(time_form(form, path, images.shape, options.rounds))
                print(lines[-1], flush=True)
    write_record("loading", lines, device)


def make_images(originals: np.ndarray, size: int) -> np.ndarray:
    """Make uint8 [N, size, size, 3]: mosaics of the images, enlarged twice if that fits."""
    number = NUM_PIXELS // size**2
    side = originals.shape[2]
    tile = side if size < 2 * side else 2 * side
    across = size // tile
    rng = np.random.default_rng(0)
    made = np.empty((number, size, size, 3), np.uint8)
    for image in made:
        for row in range(across):
            for column in range(across):
                pixels = originals[rng.integers(len(originals))].transpose(1, 2, 0)
                picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.BICUBIC)
                area = (slice(row * tile, (row + 1) * tile), slice(column * tile, None))
                image[area][:, :tile] = np.asarray(picture)
    return made


def encoded(images: np.ndarray, codec: str | None) -> list:
    """Encode images, or leave their pixels as they are."""
    if codec is None:
        return list(images)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, codec, **({"quality": 90} if codec == "JPEG" else {}))
        files.append(file.getvalue())
    return files


def clocked(run: Callable[[], object]) -> tuple[float, float, object]:
    """Return the seconds of CPU and of the wall clock that a call took, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def time_decoding(images: np.ndarray, rounds: int) -> str:
    """Compare decoders on files in memory."""
    files = encoded(images, "JPEG")[:2000]
    out = np.empty((3, *images.shape[1:3]), np.uint8)
    tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    decode_image(files[0], "")  # loads torchvision's decoder
    decoder = torch.ops.image.decode_jpeg.default

    def with_pil() -> None:
        for file in files:
            out[...] = np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1)

    def with_memaudit() -> None:
        for file in files:
            out[...] = decode_image(file, "")

    def floor() -> None:
        for tensor in tensors:
            decoder(tensor, 0, False)

    times = [
        [clocked(run)[0] / len(files) * 1e6 for run in (with_pil, with_memaudit, floor)]
        for _ in range(rounds + 1)
    ][1:]
    pil, ours, least = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b, _ in times)
    size = images.shape[1]
    return f"| {size}x{size} | {pil:,.0f} | {ours:,.0f} | {ratio:.2f} | {least:,.0f} |"


def time_form(form: Form, path: Path, shape: tuple[int, ...], rounds: int) -> str:
    """Compare the ways to read one set."""
    times = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as cache_dir:
            plain = clocked(lambda: read_plainly(form, path, shape))
            cold = clocked(lambda: open_images(path, cache_dir=cache_dir))
            warm = clocked(lambda: open_images(path, cache_dir=cache_dir))
            for found in (cold, warm):
                assert np.array_equal(found[2].images, plain[2]), "the pixels differ"
            if form.suffix != ".npy":  # a file of pixels is mapped where it lies
                assert isinstance(warm[2].images, np.memmap)
        times.append((plain[:2], cold[:2], warm[:2]))
    times = times[1:]
    cells = [
        f"{statistics.median(t[i][0] for t in times):.2f} "
        f"({statistics.median(t[i][1] for t in times):.2f})"
        for i in range(3)
    ]
    cold_ratios = [t[0][0] / t[1][0] for t in times]
    warm_ratio = statistics.median(t[0][0] / t[2][0] for t in times)
    N, H, W, _ = shape
    codec = form.codec or "pixels"
    return (
        f"| {form.name}, {N:,} {codec} of {H}x{W} | {cells[0]} | {cells[1]} | "
        f"**{statistics.median(cold_ratios):.2f}** ({min(cold_ratios):.2f}-{max(cold_ratios):.2f}) "
        f"| {cells[2]} | {warm_ratio:.1f} |"
    )


def read_plainly(form: Form, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a set one image after the other into uint8 [N, C, H, W]."""
    N, H, W, C = shape
    images = np.empty((N, C, H, W), np.uint8)
    number = 0
    for file in form.read(path):
        pixels = file if form.codec is None else np.asarray(Image.open(io.BytesIO(file)))
        images[number] = pixels.transpose(2, 0, 1)
        number += 1
    assert number == N
    return images


# ------------------------------------------------------------------------------------------------
# Forms


def _name(i: int) -> str:
    return f"{i:06d}.jpg"


def write_folder(path: Path, files: list) -> None:
    path.mkdir()
    for i, file in enumerate(files):
        (path / _name(i)).write_bytes(file)


def read_folder(path: Path) -> Iterator[bytes]:
    for file in sorted(os.listdir(path)):
        yield (path / file).read_bytes()


def write_zip(path: Path, files: list) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i, file in enumerate(files):
            archive.writestr(_name(i), file)


def read_zip(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        yield from map(archive.read, archive.namelist())


def write_tar(path: Path, files: list) -> None:
    """Write a WebDataset."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i, file in enumerate(files):
            for name, data in ((_name(i), file), (f"{i:06d}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def read_tar(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".jpg"):
                yield archive.extractfile(member).read()


def write_parquet(path: Path, files: list) -> None:
    rows = [{"bytes": file, "path": _name(i)} for i, file in enumerate(files)]
    pq.write_table(pa.table({"image": rows, "label": [0] * len(rows)}), path, row_group_size=1000)


def read_parquet(path: Path) -> Iterator[bytes]:
    for batch in pq.ParquetFile(path).iter_batches(columns=["image"]):
        for row in batch.column(0):
            yield row["bytes"].as_py()


def write_lmdb(path: Path, files: list) -> None:
    with lmdb.open(str(path), map_size=1 << 30) as store, store.begin(write=True) as change:
        for i, file in enumerate(files):
            change.put(f"{i:06d}".encode(), file)


def read_lmdb(path: Path) -> Iterator[bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as store, store.begin() as view:
        for _, file in view.cursor():
            yield file


def write_hdf5(path: Path, files: list) -> None:
    with h5py.File(path, "w") as file:
        file["imgs"] = np.stack(files).transpose(0, 3, 1, 2)


def read_hdf5(path: Path) -> Iterator[np.ndarray]:
    with h5py.File(path) as file:
        for pixels in file["imgs"]:
            yield pixels.transpose(1, 2, 0)


def write_npz(path: Path, files: list) -> None:
    np.savez_compressed(path, images=np.stack(files))


def read_npz(path: Path) -> Iterator[np.ndarray]:
    yield from np.load(path)["images"]


def write_npy(path: Path, files: list) -> None:
    np.save(path, np.stack(files))


def read_npy(path: Path) -> Iterator[np.ndarray]:
    yield from np.load(path, mmap_mode="r")


FORMS = (
    Form("folder", "", "JPEG", write_folder, read_folder),
    Form("zip", ".zip", "JPEG", write_zip, read_zip),
    Form("zip of PNG", ".zip", "PNG", write_zip, read_zip),
    Form("WebDataset tar", ".tar", "JPEG", write_tar, read_tar),
    Form("parquet", ".parquet", "JPEG", write_parquet, read_parquet),
    Form("LMDB", "", "JPEG", write_lmdb, read_lmdb),
    Form("HDF5", ".h5", None, write_hdf5, read_hdf5),
    Form("npz, packed", ".npz", None, write_npz, read_npz),
    Form("npy", ".npy", None, write_npy, read_npy),
)

if __name__ == "__main__":
    main()
