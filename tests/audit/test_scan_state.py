"""A scan that is cut short resumes where it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memaudit.audit.scan_state import (
    STATE,
    ScanState,
    discard_finished_state,
    finish_state,
    keep_state,
    missing_positions,
    only_scan_in,
    was_compiled,
)
from memaudit.errors import ConfigError
from memaudit.models.generate import GeneratedBatch

SHAPE = (3, 4, 4)
IDENTITY = {"checkpoint": ["abc", "native"], "class": None}


def batch(seeds: list[int], *, classes: bool = False) -> GeneratedBatch:
    rng = np.random.default_rng(seeds[0])
    images = rng.integers(0, 256, (len(seeds), 3, 4, 4), np.uint8)
    return GeneratedBatch(np.array(seeds), images, np.array(seeds) % 3 if classes else None)


@pytest.mark.parametrize("classes", [False, True])
def test_batches_come_back_in_order(tmp_path: Path, classes: bool):
    seeds = (7, 3, 5, 9, 2)
    parts = [batch([7, 3], classes=classes), batch([5, 9], classes=classes)]
    state = ScanState(tmp_path, IDENTITY, seeds)
    state.store(0, parts[0])
    state.store(2, parts[1])
    loaded = ScanState(tmp_path, IDENTITY, seeds).load(SHAPE, 3 if classes else 0)
    assert [part.position for part in loaded] == [0, 2]
    for part, (_, again) in zip(parts, loaded, strict=True):
        assert np.array_equal(part.seeds, again.seeds)
        assert np.array_equal(part.images, again.images)
        assert (again.class_index is not None) == classes


@pytest.mark.parametrize("saved", [True, False, None, "yes"])
def test_whether_the_network_was_compiled_is_kept(tmp_path: Path, saved: object):
    """A scan with more seeds resumes as it began, although more work would pay for it."""
    assert was_compiled(tmp_path) is None
    ScanState(tmp_path, {"compiled": saved}, range(3))
    assert was_compiled(tmp_path) is (saved if isinstance(saved, bool) else None)


def test_more_seeds_resume_from_fewer(tmp_path: Path):
    ScanState(tmp_path, IDENTITY, (0, 1)).store(0, batch([0, 1]))
    assert len(list(ScanState(tmp_path, IDENTITY, (0, 1, 2, 3)).load(SHAPE, 0))) == 1
    assert list(ScanState(tmp_path, IDENTITY, (5, 6)).load(SHAPE, 0)) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_or_missing_batch_is_a_gap(tmp_path: Path, damage: bytes | None):
    seeds = tuple(range(7))
    state = ScanState(tmp_path, IDENTITY, seeds)
    for first in (4, 0, 2):
        state.store(first, batch([first, first + 1]))
    path = tmp_path / STATE / "part-000000002.npz"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    kept = ScanState(tmp_path, IDENTITY, seeds).load(SHAPE, 0)
    assert [(part.position, part.batch.seeds.tolist()) for part in kept] == [
        (0, [0, 1]),
        (4, [4, 5]),
    ]
    assert missing_positions(kept, len(seeds)) == [2, 3, 6]
    assert not path.exists()


def test_of_two_parts_with_one_image_the_first_is_kept(tmp_path: Path):
    """What another batch size left would be in the way of what is stored next."""
    seeds = tuple(range(6))
    state = ScanState(tmp_path, IDENTITY, seeds)
    for first, size in ((0, 3), (2, 2), (3, 2)):
        state.store(first, batch([*range(first, first + size)]))
    kept = ScanState(tmp_path, IDENTITY, seeds).load(SHAPE, 0)
    assert [part.position for part in kept] == [0, 3]
    assert len(list((tmp_path / STATE).glob("part-*"))) == 2


def test_a_file_with_a_strange_name_is_no_part(tmp_path: Path):
    state = ScanState(tmp_path, IDENTITY, (0, 1))
    state.store(0, batch([0, 1]))
    (tmp_path / STATE / "part-xyz.npz").write_bytes(b"")
    assert len(ScanState(tmp_path, IDENTITY, (0, 1)).load(SHAPE, 0)) == 1


def test_a_flipped_bit_is_noticed(tmp_path: Path):
    state = ScanState(tmp_path, IDENTITY, (0, 1))
    state.store(0, batch([0, 1]))
    path = next((tmp_path / STATE).glob("part-*"))
    content = bytearray(path.read_bytes())
    images = batch([0, 1]).images.tobytes()
    content[bytes(content).index(images) + 5] ^= 1
    path.write_bytes(content)
    assert list(ScanState(tmp_path, IDENTITY, (0, 1)).load(SHAPE, 0)) == []


def test_images_marked_as_not_needed_are_kept_for_a_scan_that_begins_again(tmp_path: Path):
    ScanState(tmp_path, IDENTITY, (0, 1)).store(0, batch([0, 1]))
    finish_state(tmp_path)
    ScanState(tmp_path, IDENTITY, (0, 1))
    discard_finished_state(tmp_path)
    assert (tmp_path / STATE / "part-000000000.npz").is_file()
    finish_state(tmp_path)
    discard_finished_state(tmp_path)
    assert not (tmp_path / STATE).exists()


def test_no_mark_is_written_where_a_link_leads(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / STATE).symlink_to("elsewhere")
    finish_state(tmp_path)
    keep_state(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_images_of_another_scan_are_refused_by_name(tmp_path: Path):
    ScanState(tmp_path, IDENTITY, (0,))
    with pytest.raises(ConfigError, match="unfinished scan with another class"):
        ScanState(tmp_path, {**IDENTITY, "class": 3}, (0,))


def test_a_second_scan_of_a_folder_is_refused_until_the_first_ends(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from memaudit.audit.scan_state import only_scan_in\n"
        "with only_scan_in(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="Another scan is writing"):
            with only_scan_in(tmp_path):
                pass
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()
    with only_scan_in(tmp_path):  # a killed one holds nothing
        pass


def test_a_link_in_place_of_the_state_is_not_followed(tmp_path: Path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "report"
    elsewhere.mkdir()
    out.mkdir()
    (out / "scan-state").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="scan-state is a link, which is not followed"):
        ScanState(out, {"model": "a"}, [1, 2])
    assert not list(elsewhere.iterdir())
