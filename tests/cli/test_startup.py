"""A small scan imports only what it uses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

UNUSED = {
    "faiss",
    "IPython",
    "jinja2",
    "matplotlib",
    "pandas",
    "scipy.cluster",
    "scipy.optimize",
    "scipy.stats",
    "sklearn",
    "torch._dynamo",
    "torchvision",
}
RUN = """
import json, sys
from memaudit.cli.main import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported_by(*arguments: str | Path) -> set[str]:
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stderr.splitlines()[-1]))


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_a_small_scan_imports_only_what_it_uses(tmp_path: Path, form: str):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    for name, images in (("train", pixels[:100]), ("generated", pixels[100:])):
        if form == "npz":
            np.savez(tmp_path / name, images)
            continue
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i:03d}.png")
    suffix = ".npz" if form == "npz" else ""
    modules = imported_by(
        "scan", tmp_path / f"generated{suffix}", "--data", tmp_path / f"train{suffix}"
    )
    assert "torch" in modules
    assert modules & UNUSED == set()


def test_the_help_of_a_scan_imports_no_libraries_but_numpy():
    assert not imported_by("scan", "--help") & (UNUSED | {"PIL", "rich", "scipy", "torch"})


@pytest.mark.parametrize(
    "words",
    [
        "scan . --data . --threshold 2",
        "check . --image . --threshold 2",
        "repeats . --duplicate-rms -1",
        "train --data . --batch-size 0 --out out",
    ],
)
def test_an_option_out_of_its_range_is_refused_before_torch_is_imported(words: str):
    code = (
        "import sys\nfrom memaudit.cli.main import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"is needed" in done.stderr
