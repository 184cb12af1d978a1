"""CIFAR's archives for Python, which are pickles, and pickles that pose as such."""

import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from memaudit.data.layout import Layout
from memaudit.data.readers.cifar import load_batch
from memaudit.data.sources import open_images
from memaudit.errors import DataError

CLASSES = [b"airplane", b"automobile", b"bird", b"cat", b"deer",
           b"dog", b"frog", b"horse", b"ship", b"truck"]  # fmt: skip


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 did, whose strings they were."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj: bytes) -> None:
        short = len(obj) < 256
        self.write(b"U" + bytes([len(obj)]) if short else b"T" + struct.pack("<i", len(obj)))
        self.write(obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes


def dump_python2(value) -> bytes:
    """`value` as the original archive would hold it, under the names of that time's numpy."""
    import io

    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def dump_python3(value) -> bytes:
    return pickle.dumps(value, protocol=2)


def batch(number: int, rows: int = 300) -> dict[bytes, object]:
    """A batch of CIFAR-10; its size makes lists of more than a thousand bytes of instructions."""
    rng = np.random.default_rng(number)
    return {
        b"batch_label": f"training batch {number} of 5".encode(),
        b"labels": [int(label) for label in rng.integers(0, 10, rows)],
        b"data": rng.integers(0, 256, (rows, 3072), np.uint8),
        b"filenames": [f"photo_s_{i:06d}.png".encode() for i in range(rows)],
    }


META = {b"num_cases_per_batch": 300, b"label_names": CLASSES, b"num_vis": 3072}


def write_cifar10(folder, dump=dump_python2):
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(dump(batch(i)))
    (folder / "test_batch").write_bytes(dump(batch(6, rows=20)))
    (folder / "batches.meta").write_bytes(dump(META))
    (folder / "readme.html").write_text("hello")
    return folder


def pack(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.add(file, f"{folder.name}/{file.name}")
    return path


@pytest.fixture
def cifar10(tmp_path):
    return write_cifar10(tmp_path / "cifar-10-batches-py")


def check_training_images(images):
    expected = [batch(i) for i in range(1, 6)]
    pixels = np.concatenate([part[b"data"] for part in expected]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(images.images, pixels)
    assert images.labels.tolist() == sum((part[b"labels"] for part in expected), [])
    assert images.class_names == tuple(name.decode() for name in CLASSES)
    assert images.names[0] == "data_batch_1[0]" and images.names[-1] == "data_batch_5[299]"


@pytest.mark.parametrize("dump", [dump_python2, dump_python3])
def test_an_extracted_archive_is_its_training_images(dump, tmp_path):
    check_training_images(open_images(write_cifar10(tmp_path / "cifar", dump)))


def test_a_packed_archive_is_its_training_images_in_order(cifar10, tmp_path):
    check_training_images(open_images(pack(cifar10, tmp_path / "cifar-10-python.tar.gz")))


@pytest.mark.parametrize("packed", [True, False])
def test_the_test_images_are_a_split_of_the_archive(packed, cifar10, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    if packed:
        pack(cifar10, path)
    for root in [path] if packed else [cifar10, cifar10.parent]:
        whole = open_images(root)
        assert (whole.split, whole.other_splits) == ("train", ("test",))
        test = open_images(root, layout=Layout(split="test"))
        assert test.names[0] == "test_batch[0]" and test.class_names == whole.class_names
        assert (test.split, test.other_splits) == ("test", ("train",))
        every = open_images(root, layout=Layout(split="all"))
        assert len(every) == len(whole) + len(test) and every.other_splits == ()
        with pytest.raises(DataError, match="has no split val; it is divided into train and test"):
            open_images(root, layout=Layout(split="val"))


def test_a_batch_by_itself_finds_its_class_names(cifar10):
    images = open_images(cifar10 / "test_batch")
    assert images.labels.tolist() == batch(6, rows=20)[b"labels"]
    assert images.class_names[9] == "truck" and images.names[3] == "test_batch[3]"


def test_cifar100_takes_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    part = batch(1)
    part[b"fine_labels"], part[b"coarse_labels"] = part.pop(b"labels"), [0] * 300
    names = [f"kind {i}".encode() for i in range(100)]
    for name, value in (("train", part), ("meta", {b"fine_label_names": names})):
        (folder / name).write_bytes(dump_python2(value))
    for path in (folder, pack(folder, tmp_path / "cifar-100-python.tar.gz")):
        images = open_images(path)
        assert images.labels.tolist() == part[b"fine_labels"]
        assert images.class_names[99] == "kind 99"
        assert images.images.shape == (300, 3, 32, 32)


# ------------------------------------------------------------------------------------------------
# Bad input


class Hostile:
    """Unpickled, it would run a command that leaves a folder behind."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"mkdir {self.folder}",)


@pytest.mark.parametrize("packed", [True, False])
def test_a_pickle_that_names_a_function_is_refused_and_nothing_runs(packed, cifar10, tmp_path):
    hostile = batch(3) | {b"extra": Hostile(tmp_path / "executed")}
    (cifar10 / "data_batch_3").write_bytes(dump_python2(hostile))
    path = pack(cifar10, tmp_path / "cifar.tar.gz") if packed else cifar10
    message = (
        r"data_batch_3 cannot be opened: it names the global \w+.system, which no CIFAR batch "
        "needs; it was not loaded and nothing in it ran."
    )
    with pytest.raises(DataError, match=message):
        open_images(path)
    assert not (tmp_path / "executed").exists()


def instructions(text: bytes) -> bytes:
    return b"\x80\x02" + text + b"."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (instructions(b"cbuiltins\neval\nU\x011\x85R"), "names the global builtins.eval"),
        (instructions(b"cnumpy\nload\n"), "names the global numpy.load"),
        (instructions(b"cnumpy\ndtype.__new__\n"), "names the global numpy.dtype.__new__"),
        (instructions(b"cnumpy\ndtype\nU\x02O8\x85R"), "a numpy dtype that is not bytes"),
        (instructions(b"cnumpy\nndarray\n)R"), "calls numpy.ndarray, which no CIFAR batch does"),
        (instructions(b"c_codecs\nencode\nU\x011X\x05\x00\x00\x00rot13\x86R"), "as latin1"),
        (instructions(b"(S'a'\nios\nsystem\n"), "STRING and uses .* INST and .* os.system"),
        (instructions(b"(ios\nsystem\n"), "instruction INST and names the global os.system"),
        (instructions(b"}U\x01a\x81"), "calls a dict, which no CIFAR batch does"),
        (instructions(b"P0\n"), "uses the instruction PERSID"),
        (instructions(b"}Q"), "uses a persistent id"),
        (instructions(b"]K\x01b"), "sets attributes of a list, which no CIFAR batch does"),
        (instructions(b"}}U\x09_metadataNsb"), "sets attributes of a dict"),
        (b"\x80\x04}.", "it is not a pickle of protocol 2"),
        (b"\x80\x02}", "announces 1 bytes more, but 0 are there: the file is cut short"),
        (b"\x80\x02T\xff\xff\xff\xff", "announces 4,294,967,295 bytes more"),
        (instructions(b"]"), "it holds a list, not a dict"),
        (instructions(b"t"), "ends a container that it never began"),
        (instructions(b"h\x07"), "refers to a value that it never stored"),
        (instructions(b"}]K\x01s"), "has a list as a key"),
        (instructions(b"K\x01K\x01R"), "calls 1, which no CIFAR batch does"),
        (instructions(b"N" * 1_000_001), "more than 1,000,000 instructions; no CIFAR batch"),
    ],
)
def test_anything_but_plain_values_is_refused_by_name(data, message):
    with pytest.raises(DataError, match=message):
        load_batch(data)


def test_every_cut_and_many_flips_of_a_batch_give_a_message_or_a_dict():
    data = dump_python2(batch(1, rows=2))
    rng = np.random.default_rng(0)
    for length in range(0, len(data), 7):
        with pytest.raises(DataError, match="its? "):
            load_batch(data[:length])
    for _ in range(2000):
        broken = bytearray(data)
        broken[rng.integers(len(data))] = rng.integers(256)
        try:
            load_batch(bytes(broken))
        except DataError:
            pass


def test_an_array_shorter_than_its_shape_is_refused():
    data = dump_python2({b"data": np.zeros((2, 3072), np.uint8)})
    wrong = data.replace(b"M\x00\x0c", b"M\x00\x0d")
    assert wrong != data
    with pytest.raises(DataError, match="an array that is not of bytes, one for each place"):
        load_batch(wrong)


def test_an_array_of_other_numbers_is_refused():
    with pytest.raises(DataError, match="a numpy dtype that is not bytes"):
        load_batch(dump_python2({b"data": np.zeros(4, np.float32)}))


def test_a_dict_like_the_original_comes_back_equal():
    part = load_batch(dump_python2(batch(1)))
    expected = batch(1)
    np.testing.assert_array_equal(part["data"], expected[b"data"])
    assert part["labels"] == expected[b"labels"] and part["filenames"] == expected[b"filenames"]
    assert part["batch_label"] == b"training batch 1 of 5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0]}, "holds 1500 images but 1201 labels"),
        ({b"data": np.zeros((300, 784), np.uint8)}, "data_batch_3 holds no images of 3×32×32"),
        ({b"data": [1, 2]}, "data_batch_3 holds no images of 3×32×32 bytes"),
        ({b"labels": None}, "data_batch_3 lacks `labels` .CIFAR-10. or `fine_labels`"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, message, cifar10):
    (cifar10 / "data_batch_3").write_bytes(dump_python2(batch(3) | change))
    with pytest.raises(DataError, match=message):
        open_images(cifar10)


def test_an_archive_with_a_part_missing_is_refused(cifar10, tmp_path):
    (cifar10 / "data_batch_4").unlink()
    with pytest.raises(DataError, match="cifar.tar.gz is not CIFAR's archive for Python"):
        open_images(pack(cifar10, tmp_path / "cifar.tar.gz"))


def test_an_archive_cut_short_is_refused(cifar10, tmp_path):
    path = pack(cifar10, tmp_path / "cifar.tar.gz")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="cifar.tar.gz cannot be unpacked: .*Fetch it again"):
        open_images(path)
