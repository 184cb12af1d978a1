"""`memaudit cache` lists what is kept and removes it; why a cache is not used is told in words."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers.limited import run_memaudit

from memaudit.data import cache_pixels, sources
from memaudit.data.built_sets import write_set
from memaudit.data.images import ImageSet
from memaudit.data.sources import open_images

Run = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMAUDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "MAPPED_FROM", 500)
    return tmp_path / "cache"


def test_what_is_kept_is_listed_and_removed(
    run: Run, make_npz: Callable[..., Path], root: Path
) -> None:
    assert run("cache").stdout == f"0 entries, 0.0 MB in {root}\n"
    assert "Removed 0 entries" in run("cache", "clear").stderr
    sets = [make_npz(20), make_npz(30, seed=1)]
    for path in sets:
        open_images(path)
    shown = run("cache").stdout
    assert "20 x 3 x 8 x 8" in " ".join(shown.split()) and "2 entries" in shown
    listed = json.loads(run("cache", "--json").stdout)
    assert {entry["source"] for entry in listed} == set(map(str, sets))
    # Names and paths can be copied, however narrow the terminal is.
    lines = [line.strip() for line in shown.splitlines()]
    assert {entry[key] for entry in listed for key in ("name", "source")} <= set(lines)

    refused = run("cache", "clear", "images/nothing")
    assert refused.exit_code == 2 and "Nothing in the cache has the name" in refused.stderr
    assert "Removed 0 entries" in run("cache", "clear", "--older-than", "1").stderr
    assert "Removed 1 entry" in run("cache", "clear", listed[0]["name"]).stderr
    assert "Removed 1 entry" in run("cache", "clear").stderr
    assert json.loads(run("cache", "--json").stdout) == []


def test_a_name_in_the_cache_does_not_steer_the_terminal(
    run: Run, make_npz: Callable[..., Path], root: Path
) -> None:
    open_images(make_npz(20))
    (about,) = root.glob("images/*/about.json")
    about.write_text(json.dumps({"source": "\x1b[2J\n\u202eoops", "shape": [1, 2, 3, 10**30]}))
    result = run("cache")
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "\u202e" not in result.stdout
    about.write_bytes(b"[" * 60_000)
    assert run("cache").exit_code == 0


def test_a_cache_of_everybody_is_not_used_and_told_in_words(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    root.chmod(0o777)
    pixels = np.random.default_rng(0).integers(0, 256, (5500, 3, 64, 64), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels)
    done = run_memaudit("dataset", "inspect", tmp_path / "set.npz")
    assert done.returncode == 0
    said = " ".join(done.stderr.split())
    assert "Warning: The cache is not used for" in said and "CacheWarning" not in said
    assert "(mode 777); `memaudit cache clear` empties the cache and makes it yours alone." in said
    assert said.count("The cache is not used") == 1 and not list(root.iterdir())


@pytest.mark.filterwarnings("default::memaudit.errors.CacheWarning")
@pytest.mark.parametrize("role", ["--data", "SOURCE", "--holdout"])
def test_a_gate_compares_all_cached_images(
    run: Run,
    make_npz: Callable[..., Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    """One changed image of 40, of which a scan without a gate compares one."""
    monkeypatch.setattr(cache_pixels, "FEWEST_CHECKED", 1)
    images = open_images(make_npz(40), cache_dir=False)
    write_set(tmp_path / "set", images, sources=[images], choices={})
    open_images(tmp_path / "set")
    (entry,) = root.glob("images/*")
    pixels = np.load(entry / "images.npy")
    pixels[17] ^= 255
    np.save(entry / "images.npy", pixels)
    about = json.loads((entry / "about.json").read_text())
    about["fingerprint"] = ImageSet.from_array(pixels).fingerprint
    (entry / "about.json").write_text(json.dumps(about))

    generated = make_npz(30, seed=1)
    source, data, more = {
        "SOURCE": (tmp_path / "set", generated, ()),
        "--data": (generated, tmp_path / "set", ()),
        "--holdout": (generated, make_npz(50, seed=2), ("--holdout", tmp_path / "set")),
    }[role]
    result = run("scan", source, "--data", data, "--fail-above", 0.5, *more)
    assert result.exit_code in (0, 3), result.output
    assert "holds other pixels than the source" in result.stderr
