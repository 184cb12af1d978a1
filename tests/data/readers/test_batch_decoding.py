"""Batches of image files, decoded in this process or in several."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.images import Encode
from PIL import Image

from memaudit.data.readers import batch_decoding
from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.errors import DataError


def batches_of(data: list[bytes], rows: int) -> list[EncodedBatch]:
    names = [f"{i}.png" for i in range(len(data))]
    return [
        EncodedBatch(names[i : i + rows], data[i : i + rows]) for i in range(0, len(data), rows)
    ]


def test_processes_give_the_batches_in_order(encode: Encode) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 3, 6, 6), np.uint8)
    batches = batches_of([encode(image) for image in pixels], 3)
    decoded = decode_batches(
        batches, source="set", shape=(3, 6, 6), first_name="0.png", num_processes=2
    )
    np.testing.assert_array_equal(np.concatenate(list(decoded)), pixels)


def test_an_error_in_a_process_names_the_file(pixels: np.ndarray, encode: Encode) -> None:
    data = [encode(image) for image in pixels]
    data[4] = b"junk"
    decoded = decode_batches(
        batches_of(data, 2), source="set", shape=(3, 8, 8), first_name="0.png", num_processes=2
    )
    with pytest.raises(DataError, match="set: 4.png cannot be decoded"):
        list(decoded)


def test_a_script_without_a_guard_decodes_in_its_own_process(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    """Spawned processes run such a script again and fail; the images come all the same."""
    np.save(tmp_path / "pixels.npy", pixels)
    script = tmp_path / "script.py"
    script.write_text(
        "import io\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from memaudit.data.readers.batch_decoding import EncodedBatch, decode_batches\n"
        f"pixels = np.load({str(tmp_path / 'pixels.npy')!r})\n"
        "batches = []\n"
        "for i, image in enumerate(pixels):\n"
        "    file = io.BytesIO()\n"
        "    Image.fromarray(image.transpose(1, 2, 0)).save(file, 'PNG')\n"
        "    batches.append(EncodedBatch([str(i)], [file.getvalue()]))\n"
        "decoded = decode_batches(\n"
        "    batches, source='set', shape=(3, 8, 8), first_name='0', num_processes=2\n"
        ")\n"
        "assert np.array_equal(np.concatenate(list(decoded)), pixels)\n"
        "print('all there')\n"
    )
    root = Path(batch_decoding.__file__).parents[3]
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=root, timeout=60,
        env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.stdout == "all there\n", run.stderr
    assert run.returncode == 0


def test_processes_start_only_where_they_pay(photo: Image.Image, encode: Encode) -> None:
    png, jpeg = encode(photo), encode(photo, "JPEG")
    all_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert choose_num_processes(1 << 20, png) == 1
    assert choose_num_processes(1 << 29, png) == all_cores
    assert choose_num_processes(1 << 29, jpeg) == 1
    assert choose_num_processes(1 << 34, jpeg) == all_cores
