"""Whatever the bytes, a reader gives images or an error of ours, in bounded time and memory."""

import gzip
import importlib.util
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from helpers.deep_pictures import deep_tiff
from helpers.fuzzed_sources import Family, opened
from helpers.fuzzing import Read, fuzz
from helpers.hostile_images import (
    PIXELS,
    Member,
    batch,
    instructions,
    jpeg,
    make_zip,
    npz,
    png,
    tar,
)
from helpers.limited import run_python
from PIL import Image

from memaudit.cli.options import SeedList
from memaudit.data.built_sets import SCHEMA, read_set_manifest
from memaudit.data.labels import relabel
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.data.readers.captions import Beside, read_texts
from memaudit.data.readers.cifar import load_batch
from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.lazy_images import array_contents
from memaudit.data.sources import open_images
from memaudit.errors import MemauditError
from memaudit.wording import parse_ranges

FEW, MANY = 300, 100_000
"""Inputs for each family, and in the slow tests."""


EVERY_CHOICE = Preparation(
    resolution=(8, 8), fit="adm", mode="rgb", background="white", window=(0, 65535), exif="apply"
)


def decoded(data: bytes) -> None:
    """Decodes the bytes of an image file, as they are stored and with every choice made."""
    for preparation in (AS_STORED, EVERY_CHOICE):
        try:
            image = decode_image(data, "a", preparation)
        except MemauditError as error:
            assert str(error)
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.size
            assert preparation == AS_STORED or image.shape == (3, 8, 8)


def picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small picture in some format."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (17, 19, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def heif(mode: str) -> bytes:
    """A small picture in HEIF."""
    import pillow_heif

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (17, 19, 3), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(pixels).convert(mode)).save(file, quality=50)
    return file.getvalue()


def captions(compression: str) -> bytes:
    """A table of the captions of two images."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    names = ["0.png", "./1.png"]
    table = pa.table({"file_name": names, "text": ["a cat", None], "group": [3, 4]})
    parquet.write_table(table, file, compression=compression)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def folder_with(name: str, *, built: bool = False) -> Read:
    """Opens a folder of two images with the bytes in a file beside them."""
    folder = Path(tempfile.mkdtemp())
    for i in range(2):
        (folder / f"img{i:08d}.png").write_bytes(png())

    def read(data: bytes) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)
        try:
            images = open_images(folder, cache_dir=False)
            if built:
                read_set_manifest(folder, num_images=2)
        except MemauditError as error:
            assert str(error)
        else:
            assert all(isinstance(text, str) for text in images.names)

    return read


def described(name: str) -> Read:
    """Reads the texts of two images from a file beside them."""
    names = ["a/0.png", "a/1.png"]

    def read(data: bytes) -> None:
        def read_beside(_: str, limit: int) -> bytes:
            assert len(data) <= limit
            return data

        texts = read_texts("set", names, Beside([name], read_beside), num_known=2)
        for found in (texts.all_captions(None), texts.all_groups()):
            assert (
                found is None or [type(text) in (str, type(None)) for text in found] == [True] * 2
            )
        assert all(note and len(note) < 1000 for note in texts.notes)

    return read


def labeled(data: bytes) -> None:
    """Takes the labels of four images from a CSV file with the bytes in it."""
    file = Path(tempfile.gettempdir()) / "memaudit-fuzzed-labels.csv"
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    contents = array_contents(PIXELS, "set", ["a/0.png", "a/1.png", "b/2.png", "3.png"])
    try:
        images = relabel(contents, str(file)).with_pixels(PIXELS)
    except MemauditError as error:
        assert str(error)
    else:
        assert images.num_classes <= 10**6


def seeds(data: bytes) -> None:
    """Reads a text of ranges as reports and the command line have it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        assert all(type(number) is int for number in parse_ranges(text))
    except ValueError:
        pass
    try:
        SeedList().convert(text, None, None)
    except click.UsageError as error:
        assert str(error)


def pickled(data: bytes) -> None:
    """Reads one of CIFAR's batches."""
    try:
        assert isinstance(load_batch(data), dict)
    except MemauditError as error:
        assert str(error)


def zipped(data: bytes) -> bytes:
    """A zip that holds the bytes as an image, with its labels."""
    return make_zip([Member("0.png", data), Member("dataset.json", b'{"labels": [["0.png", 1]]}')])


def cifar_tar(data: bytes) -> bytes:
    """CIFAR-100's archive as the bytes have it, packed."""
    return gzip.compress(data, 1, mtime=0)


def families() -> dict[str, Family]:
    """Every kind of input that a reader takes, by name."""
    pictures = {
        "png": png(),
        "png gray": picture("PNG", "L"),
        "png palette": picture("PNG", "P"),
        "png alpha": picture("PNG", "RGBA"),
        "gif": picture("GIF", "P"),
        "bmp": picture("BMP"),
        "tiff": picture("TIFF"),
        "tiff lzw": picture("TIFF", compression="tiff_lzw"),
        "tiff jpeg": picture("TIFF", compression="jpeg"),
        "ppm": picture("PPM"),
        "jpeg 2000": picture("JPEG2000"),
        "avif": picture("AVIF"),
        "webp": picture("WEBP"),
        "webp lossless": picture("WEBP", lossless=True),
    }
    jpegs = {
        "plain": jpeg(17, 19),
        "gray": picture("JPEG", "L"),
        "progressive": picture("JPEG", progressive=True),
        "restarts": picture("JPEG", restart_marker_blocks=1),
        "cmyk": picture("JPEG", "CMYK"),
        "exif": picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    }
    labels = json.dumps({"labels": [[f"img{i:08d}.png", i] for i in range(2)]}).encode()
    manifest = {"schema": SCHEMA, "memaudit": "1", "fingerprint": "0", "shape": [2, 3, 8, 8]}
    manifest |= {"names": ["a", "b"], "class_names": ["c"], "choices": {"left_out": [], "size": 2}}
    manifest |= {"sources": [{"path": "a", "fingerprint": "0", "num_images": 2}]}
    arrays = {
        "rgb": npy(PIXELS),
        "gray": npy(PIXELS[:, 0]),
        "last": npy(np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1))),
        "fortran": npy(np.asfortranarray(PIXELS)),
    }
    names = npz(images=PIXELS, labels=np.arange(4), names=np.array(list("abcd")))
    packed = io.BytesIO()
    np.savez_compressed(packed, images=PIXELS, labels=np.arange(4), manifest=json.dumps(manifest))
    zips = {
        "stored": make_zip([Member(f"c{i}/{i}.png", png()) for i in range(2)]),
        "labels": make_zip([Member("img00000000.png", png()), Member("dataset.json", labels)]),
    }
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("img00000000.png", png())
        archive.writestr("manifest.json", json.dumps(manifest))
    zips["deflated"] = deflated.getvalue()
    idx = struct.pack(">I3I", 0x803, 4, 8, 8) + PIXELS[:, 0].tobytes()
    batches = {"python 3": batch(), "text": batch(filenames=["a.png"] * 4)}
    batches["python 2"] = instructions(
        b"}q\x01(U\x04dataq\x02U\x05queueq\x03U\x06labelsq\x04]q\x05(K\x01K\x02eU\x09num_cases"
        b"M'\x10U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftbu"
    )
    whole = tar_of_cifar100()
    deep = {
        f"{order} {packed} {predictor}": deep_tiff(
            np.random.default_rng(0).integers(0, 65_536, (9, 7, 3), np.uint16),
            packed=packed,
            predictor=predictor,
            order=order,
        )
        for order, packed, predictor in (("<", False, 1), (">", True, 1), ("<", True, 2))
    }
    found = {}
    if importlib.util.find_spec("pillow_heif"):
        found["heif"] = Family(
            {"rgb": heif("RGB"), "gray": heif("L"), "alpha": heif("RGBA")}, decoded
        )
    if importlib.util.find_spec("pyarrow"):
        found["metadata.parquet"] = Family(
            {"plain": captions("none"), "packed": captions("zstd")}, described("a/metadata.parquet")
        )
    return found | {
        "deep tiff": Family(deep, decoded),
        "image files": Family(pictures, decoded),
        "jpeg": Family(jpegs, decoded),
        "zip": Family(zips, opened("set.zip")),
        "zip of anything": Family(pictures, opened("set.zip", zipped)),
        "npz": Family({"stored": names, "packed": packed.getvalue()}, opened("set.npz")),
        "npz of anything": Family(
            arrays, opened("set.npz", lambda data: make_zip([Member("images.npy", data)]))
        ),
        "npz with any labels": Family(
            {"labels": npy(np.arange(4)), "few": npy(np.zeros(4, np.uint8))},
            opened(
                "set.npz",
                lambda data: make_zip(
                    [Member("images.npy", arrays["rgb"]), Member("labels.npy", data)]
                ),
            ),
        ),
        "npz with any names": Family(
            {"names": npy(np.array(list("abcd"))), "long": npy(np.array(["a" * 50] * 4))},
            opened(
                "set.npz",
                lambda data: make_zip(
                    [Member("images.npy", arrays["rgb"]), Member("names.npy", data)]
                ),
            ),
        ),
        "npy": Family(arrays, opened("set.npy")),
        "idx": Family({"images": idx}, opened("a-images-idx3-ubyte")),
        "idx packed": Family(
            {"images": gzip.compress(idx, mtime=0)}, opened("a-images-idx3-ubyte.gz")
        ),
        "cifar": Family(batches, pickled),
        "cifar batch": Family({"python 3": batch()}, opened("data_batch_1")),
        "tar": Family({"cifar-100": whole}, opened("cifar.tar")),
        "tar packed": Family({"cifar-100": cifar_tar(whole)}, opened("cifar.tar.gz")),
        "dataset.json": Family({"labels": labels}, folder_with("dataset.json")),
        "manifest.json": Family(
            {"manifest": json.dumps(manifest).encode()}, folder_with("manifest.json", built=True)
        ),
        "metadata.jsonl": Family(
            {
                "text": b'{"file_name": "0.png", "text": "a cat"}\n{"file_name": "1.png"}\n',
                "group": b'{"file_name": "1.png", "caption": "\\u0000", "group": 3}',
            },
            described("a/metadata.jsonl"),
        ),
        "metadata.csv": Family(
            {"text": b'file_name,text,group\n0.png,"a, b",x\n./1.png,c,y\n'},
            described("a/metadata.csv"),
        ),
        "captions.json": Family(
            {
                "coco": b'{"images": [{"id": 1, "file_name": "0.png"}], "annotations": '
                b'[{"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "b"}]}'
            },
            described("captions_val2017.json"),
        ),
        "caption": Family({"text": "\ufeffa cat".encode()}, described("a/0.txt")),
        "identities": Family({"text": b"0.png 3\n1.png 44\n"}, described("identity_CelebA.txt")),
        "labels.csv": Family(
            {"numbers": b"name,label\na/0.png,1\n1.png,0\n2,3\n3.png,3\n", "texts": b"0;a\n1;b"},
            labeled,
        ),
        "seeds": Family({"range": b"0-99", "list": b"1,5,7-9,4294967295"}, seeds),
    }


def tar_of_cifar100() -> bytes:
    """CIFAR-100's archive with four images, not packed."""
    names = instructions(b"}U\x10fine_label_names]U\x01aas")
    parts = {"train": batch(fine_labels=[0] * 4), "meta": names}
    members = [(tarfile.TarInfo(f"cifar-100-python/{name}"), data) for name, data in parts.items()]
    return gzip.decompress(tar(*members))


NAMES = sorted(families())


@pytest.mark.parametrize("name", NAMES)
def test_the_samples_are_what_the_readers_read(name: str) -> None:
    samples, read = families()[name]
    for data in samples.values():
        read(data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")
def test_any_bytes_give_images_or_a_message(name: str) -> None:
    samples, read = families()[name]
    fuzz(read, samples, inputs=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_very_many_bytes_give_images_or_a_message_within_limits(name: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; from test_fuzz import families, fuzz; "
        "samples, read = families()[sys.argv[1]]; fuzz(read, samples, inputs=int(sys.argv[2]))"
    )
    here = Path(__file__).parent
    paths = (here, here.parents[1])
    memory = (12 if name == "jpeg" else 4) << 30  # torch alone takes 4 GiB of addresses
    done = run_python(code, name, str(MANY), *paths, memory=memory, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
