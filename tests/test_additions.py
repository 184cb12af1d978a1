"""To add a thing takes one file and one line: each of the six is added so, and then used.

docs/architecture.md names the file and the line. Here they are added to a copy of the package, in
which a process of its own uses them as a user would.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memaudit

READER = '''
"""A toy form of images: gray 4x4 images after the letters TOY."""

import numpy as np

from memaudit.data.readers.lazy_images import array_contents
from memaudit.data.readers.reader import Reader, first_bytes


def recognizes(path):
    return first_bytes(path, 3) == b"TOY"


def read(path, files, preparation):
    pixels = np.frombuffer(path.read_bytes()[3:], np.uint8).reshape(-1, 1, 4, 4)
    names = [f"toy {i}" for i in range(len(pixels))]
    return array_contents(pixels, str(path), names, None, ())


READER = Reader("toy images", recognizes, read)
'''

NETWORK = '''
"""A toy U-Net: one number that scales its input."""

import torch
from torch import nn


class ToyUNet(nn.Module):
    def __init__(
        self, img_resolution: int, in_channels: int, out_channels: int, *, label_dim: int,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(gain))

    def forward(self, x, noise_labels, class_labels):
        return self.scale * x
'''

FORMAT = '''
"""A toy format: safetensors whose metadata say that they are toys."""

from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.format import FileFormat


def recognizes(contents):
    return contents.container == "safetensors" and contents.metadata.get("made by") == "toys"


def read(contents, given):
    return StoredNetwork(
        format="toy format",
        config={
            "class_name": "EDMPrecond", "img_resolution": 4, "img_channels": 1, "label_dim": 0,
            "model_type": "ToyUNet",
        },
        tensors=contents.read_tensors({"model.scale": contents.value["number"]}),
    )


FORMAT = FileFormat("toy format", recognizes, read)
'''

DIAGNOSTIC = '''
"""A toy diagnostic: how many of the nearest training images are odd ones."""

from dataclasses import dataclass

from memaudit.audit.diagnostics.diagnostic import Diagnostic
from memaudit.audit.diagnostics.section import Paragraph


@dataclass(frozen=True)
class ToyResult:
    """What the toy counts."""

    num_odd: int
    """Generated images whose nearest training image has an odd position."""


def run(context):
    return ToyResult(int((context.matches.nn1 % 2).sum()))


DIAGNOSTIC = Diagnostic(
    title="Oddities",
    requires=frozenset(),
    run=run,
    section=lambda result, page: [Paragraph(f"{result.num_odd} oddities on the page")],
    lines=lambda result: [f"{result.num_odd} oddities in the terminal"],
)
'''

RULE = '''
"""A toy rule: images that hold a training image upside down."""

import numpy as np

from memaudit.audit.neighbors.rules.rule import CopyRule, Finds, RuleSearch


class Toy(RuleSearch):
    name = "toy"

    def __init__(self, index):
        self.index = index

    def judge(self, images, apart, criteria, *, left_out=None):
        turned = self.index.images[:, :, ::-1]
        equal = (images[:, None] == turned).all((2, 3, 4)) & (left_out is None)
        hit = equal.any(1)
        index = np.where(hit, equal.argmax(1), -1)
        values = np.where(hit, images[0].size, 0)
        where = tuple("upside down" if each else "" for each in hit)
        return Finds("toy", index, np.where(hit, 0, -1), values, where)

    def pools(self, images):
        return iter(())


RULE = CopyRule("toy", "training images upside down", lambda index, config, tell: Toy(index))
'''

COMMAND = '''
"""`memaudit toy`: says hello."""

import click


@click.command()
def toy() -> None:
    """Say hello."""
    click.echo("hello from a toy")
'''

FILES = {
    "data/readers/toy.py": READER,
    "models/networks/toy.py": NETWORK,
    "models/checkpoints/formats/toy.py": FORMAT,
    "audit/diagnostics/toy.py": DIAGNOSTIC,
    "audit/neighbors/rules/toy.py": RULE,
    "cli/toy.py": COMMAND,
}
LINES = {
    "data/sources.py": [
        ("READERS: tuple[Reader, ...] = (\n", "    toy.READER,\n"),
        ("from memaudit.data.readers import (\n", "    toy,\n"),
    ],
    "models/networks/registry.py": [
        ("NETWORKS: dict[str, type[nn.Module]] = {\n", '    "ToyUNet": ToyUNet,\n'),
        ("from torch import nn\n", "from memaudit.models.networks.toy import ToyUNet\n"),
    ],
    "models/checkpoints/formats/__init__.py": [
        ("FILE_FORMATS: tuple[FileFormat, ...] = (\n", "    toy.FORMAT,\n"),
        ("from memaudit.models.checkpoints.formats import (\n", "    toy,\n"),
    ],
    "audit/diagnostics/registry.py": [
        (
            'A result is None if its diagnostic did not run."""\n',
            "    toy: Annotated[toy.ToyResult | None, toy.DIAGNOSTIC] = None\n",
        ),
        ("from memaudit.audit.diagnostics import (\n", "    toy,\n"),
    ],
    "audit/neighbors/rules/registry.py": [
        ("RULES: tuple[CopyRule, ...] = (\n", "    toy.RULE,\n"),
        ("from memaudit.audit.neighbors.rules import (\n", "    toy,\n"),
    ],
    "cli/main.py": [("COMMANDS = {\n", '    "toy": "Say hello.",\n')],
}
"""File → where a line (with the import that it needs) goes, and the line."""

USE = """
import json, sys
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from memaudit.audit.report.json_schema import json_schema
from memaudit.cli.main import cli

folder = Path(sys.argv[1])
train, fresh = np.random.default_rng(0).integers(0, 256, (2, 8, 16), np.uint8)
(folder / "train.toy").write_bytes(b"TOY" + train.tobytes())
(folder / "generated.toy").write_bytes(b"TOY" + train[:3].tobytes() + fresh[:2].tobytes())
turned = train[:4].reshape(4, 4, 4)[:, ::-1]
(folder / "turned.toy").write_bytes(b"TOY" + turned.tobytes())
save_file({"number": torch.tensor(1.0)}, folder / "toy.safetensors", {"made by": "toys"})


def run(*words):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    return {"status": result.exit_code, "text": result.output, "error": repr(result.exception)}


data = ["--data", folder / "train.toy"]
report = folder / "report"
found = {
    "reader": run("dataset", "inspect", folder / "train.toy"),
    "scan": run("scan", folder / "generated.toy", *data, "--out", report),
    "verify": run("verify", report),
    "inspect": run("inspect", folder / "toy.safetensors"),
    "model": run("scan", folder / "toy.safetensors", *data, "--samples", 2, "--steps", 2),
    "rule": run("scan", folder / "turned.toy", *data, "--match", "toy", "--json"),
    "toy": run("toy"),
    "help": run("--help"),
}
found["page"] = (report / "report.html").read_text()
found["report"] = json.loads((report / "report.json").read_text())
found["schema"] = json_schema()
Path(folder / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a memaudit with six toys in it says and writes."""
    site = tmp_path_factory.mktemp("site")
    package = site / "memaudit"
    ignored: Callable[..., set[str]] = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(memaudit.__file__).parent, package, ignore=ignored)
    for name, text in FILES.items():
        (package / name).write_text(text)
    for name, lines in LINES.items():
        text = (package / name).read_text()
        for place, line in lines:
            assert text.count(place) == 1, f"{name} has no single line {place!r}"
            text = text.replace(place, place + line)
        (package / name).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(site)}
    # In the folder of the copy: Python looks where it stands first.
    subprocess.run([sys.executable, "-c", USE, str(site)], env=environment, cwd=site, check=True)
    result: dict[str, Any] = json.loads((site / "found.json").read_text())
    return result


def test_a_reader_is_one_file_and_one_line(found: dict[str, Any]):
    assert found["reader"]["status"] == 0, found["reader"]
    assert "8 images, 1 x 4 x 4, no labels" in found["reader"]["text"]


def test_a_network_is_one_file_and_one_line(found: dict[str, Any]):
    assert "ToyUNet" in found["inspect"]["text"], found["inspect"]
    assert found["model"]["status"] == 0, found["model"]


def test_a_checkpoint_format_is_one_file_and_one_line(found: dict[str, Any]):
    assert "toy format" in found["inspect"]["text"], found["inspect"]
    assert "of 2 generated images" in found["model"]["text"] or "0 of 2" in found["model"]["text"]


def test_a_diagnostic_is_one_file_and_one_line(found: dict[str, Any]):
    assert found["scan"]["status"] == 0, found["scan"]
    number = found["report"]["diagnostics"]["toy"]["num_odd"]
    assert f"{number} oddities in the terminal" in found["scan"]["text"]
    assert f"{number} oddities on the page" in found["page"]
    assert '<h2 id="oddities-title">Oddities</h2>' in found["page"]
    described = found["schema"]["$defs"]["ToyResult"]["properties"]["num_odd"]["description"]
    assert described == "Generated images whose nearest training image has an odd position."
    assert found["verify"]["status"] == 0, found["verify"]


def test_a_command_is_one_file_and_one_line(found: dict[str, Any]):
    assert found["toy"]["text"] == "hello from a toy\n"
    assert "Say hello." in found["help"]["text"]


def test_a_rule_is_one_file_and_one_line(found: dict[str, Any]):
    assert found["rule"]["status"] == 0, found["rule"]
    text = found["rule"]["text"]
    report, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
    assert report["search"]["match"] == ["pixels", "toy"]
    by_rule = {row["rule"]: row["copies"]["count"] for row in report["ratios"]["by_rule"]}
    assert by_rule["toy"] == report["ratios"]["copies"]["count"] == 4
