"""Scans whose results are stored: matches, ratios, intervals and verdicts stay what they were.

The results in stored_scans/ were written at commit fcd1315, before the code was restructured:

    python tests/audit/test_stored_scans.py

They say what the restructured code must still find, bit for bit, so they are never to be written
again to make a test pass. Only the results of gates, and of the scan at radius 16 of images that
are near their neighbors, were: since then, the gate takes its floor off, and an image within the
radius of a training image is a copy of it. Where report.json has another layout, `numbers_of` is to
read the same numbers from it; where a command is spelled otherwise, SCANS, NETWORK_SCANS and
SAMPLED are to say the same in the new words.

Every input is whole-number arithmetic on SplitMix64, so that it is the same on every machine and
with every version of NumPy. The samplers of the optimum and of the planted model end in the middle
of a gray level, and their images are the same on every machine, too. A network's images may differ
by a level on another processor: they are stored, and judged as given images beside the scan.
"""

import csv
import hashlib
import io
import json
import math
import os
import shlex
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file
from scipy.special import betaln
from scipy.stats import beta

from memaudit.cli.main import cli
from memaudit.models.build import build_network

STORED = Path(__file__).parent / "stored_scans"
SAMPLES = STORED / "sampled.npz"
"""uint8 [N, 3, 8, 8] of each of SAMPLED, and the classes of those that have any."""
TABLES = ("matches.csv", "leaks.csv")
ADDED = ("p_value", "q_value", "copy")
"""Columns of matches.csv that were added since the results were stored."""
NUMBERS = "numbers.json"
REPLACED = ("holdout ratio paper", "holdout excess")
"""Numbers that are now taken of other images: of held-out ones that are near no training image."""
EXIT_STATUS = "exit status"
ARITHMETIC = STORED / "arithmetic.txt"
"""`arithmetic()` where the results were written."""

FEW = "--optimum-images 8 --optimum-trajectories 4"

SCANS = {
    # Given images.
    "given": "mixed.npz --data color.npz",
    "given_first_20": "mixed.npz --data color.npz --samples 20",
    "given_folder": "made --data classes",
    "given_one_class": "made --data classes --label b,c --size 30 --subset random --subset-seed 3",
    "given_balanced": "made --data classes --size 24 --balanced",
    "given_gray": "gray_mixed.npz --data gray.npz",
    "given_gate_fail": "mixed.npz --data color.npz --holdout held.npz --fail-above 0.1 "
    "--fail-on label-test",
    "given_gate_pass": "fresh.npz --data color.npz --fail-above 0.1",
    "given_gate_inconclusive": "mixed.npz --data color.npz --fail-above 0.5 --confidence 0.99",
    "given_flips": "mixed.npz --data color.npz --flips --holdout held.npz",
    "given_half_at_0": "mixed.npz --data color.npz --threshold 1/2 --duplicate-rms 0",
    "given_quarter_at_12": "mixed.npz --data color.npz --threshold 1/4 --duplicate-rms 12",
    "given_classes": "labeled_mixed.npz --data labeled.npz",
    "given_classes_gate": "labeled_mixed.npz --data labeled.npz --fail-above 0.1",
    "given_holdout": "mixed.npz --data color.npz --holdout held.npz",
    "given_all_alike": "alike_mixed.npz --data alike.npz --holdout held.npz",
    "given_edges": "edge_levels.npz --data edges.npz",
    "given_edges_at_16": "edge_levels.npz --data edges.npz --threshold 1/4 --duplicate-rms 16",
    "given_two_trained": "mixed.npz --data color.npz --size 2",
    "features_cosine": "mixed.npz --data color.npz --features flat.pt",
    "features_l2": "mixed.npz --data color.npz --features sums.pt --feature-metric l2 "
    "--preprocessing unit --holdout held.npz",
    "features_flips": "mixed.npz --data color.npz --features sums.pt --preprocessing signed "
    "--flips --threshold 1/4 --duplicate-rms 4",
    # A model that copies now and then.
    "planted": "planted:model --data color.npz --steps 1 --samples 48 --without optimality",
    "planted_gate_fail": "planted:model --data color.npz --steps 1 --samples 200 "
    "--without optimality --fail-above 0.1 --min-samples 5 --batch-size 7",
    "planted_gate_pass": "planted:model --data color.npz --steps 1 --samples 200 "
    "--without optimality --fail-above 0.4 --min-samples 5 --holdout held.npz",
    "planted_gate_inconclusive": "planted:model --data color.npz --steps 1 --samples 40 "
    "--without optimality --fail-above 0.25",
    # The optimum, which copies always.
    "optimum": f"optimum --data color.npz --samples 40 --steps 8 --holdout held.npz {FEW}",
    "optimum_seeds": "optimum --data color.npz --seeds 3,7,20-29,100-110 --without optimality",
    "optimum_gray": "optimum --data gray.npz --samples 24 --steps 10 --S_churn 5 "
    "--without optimality",
    "optimum_general_sampler": "optimum --data color.npz --samples 16 --steps 40 "
    "--without optimality --solver euler --discretization vp --schedule vp --scaling vp",
    "optimum_gate_fail": "optimum --data color.npz --samples 200 --steps 6 --without optimality "
    "--fail-above 0.001",
    "optimum_gate_pass": "optimum --data same.npz --samples 200 --steps 6 --without optimality "
    "--fail-above 0.1 --min-samples 10",
    "optimum_gate_inconclusive": "optimum --data color.npz --samples 24 --steps 6 "
    "--without optimality --fail-above 0.95",
    "optimum_class": "optimum --data labeled.npz --class 1 --samples 24 --steps 6 "
    f"--holdout labeled_held.npz {FEW}",
    "optimum_all_tests": "optimum --data color.npz --samples 16 --steps 6 --without optimality "
    "--holdout many_held.npz --also noise-and-return,membership",
}
"""Scans whose results are the same on every machine: name → what follows `memaudit scan`."""

SAMPLED = {
    "plain": "network.safetensors --seeds 0-39",
    "churned": "network.safetensors --seeds 0-23 --steps 6 --S_churn 20 --S_noise 1.003",
    "classes": "conditional.safetensors --seeds 5-34 --steps 6",
    "one_class": "conditional.safetensors --seeds 0-15 --steps 6 --class 2",
}
"""Images of a network: name → what follows `memaudit sample`."""
CONDITIONAL = ("classes", "one_class")

NETWORK_SCANS = {
    "network": ("plain", "--data known.npz", FEW),
    "network_gate_fail": ("plain", "--data known.npz", "--fail-above 0.02 --without optimality"),
    "network_gate_pass": (
        "plain",
        "--data known.npz --holdout held.npz",
        "--fail-above 0.6 --min-samples 8 --without optimality",
    ),
    "network_holdout": (
        "churned",
        "--data known.npz --holdout held.npz --threshold 2/5 --duplicate-rms 4",
        FEW,
    ),
    "network_classes": ("classes", "--data labeled_known.npz", "--without optimality"),
    "network_classes_gate": (
        "classes",
        "--data labeled_known.npz",
        "--fail-above 0.02 --min-samples 12 --without optimality",
    ),
    "network_one_class": (
        "one_class",
        "--data labeled_known.npz --holdout labeled_held.npz",
        FEW,
    ),
    "network_all_tests": (
        "churned",
        "--data known.npz --holdout many_held.npz",
        "--also noise-and-return,membership --without optimality",
    ),
}
"""Scans of a network: name → which of SAMPLED it judges, how, and what only a model can be asked.

Without the gate a scan judges all of the images, and with one the first of them.
"""

CLOSE = 1e-12
"""Relative, for what follows from whole numbers, where a library rounds otherwise.

SciPy's quantiles change in their last bits from version to version, and the C library's logarithms
where a processor lacks FMA. Where `arithmetic` is what it was, all but LAST_BITS is to be equal.
"""
LAST_BITS = ("gate evidence", "class p ", "leak unseen", "copying")
"""NumPy's logarithms change where a processor lacks AVX-512, and p-values and clusterings with
SciPy's algorithms: close is enough on every machine."""
MEASURED = {"optimum at ": (1e-5, 1e-12), "membership score": (1e-6, 1e-12)}
"""Averages over what a model answers in float32, and how close they are: relative or absolute."""
MEM_GAP, MEM_GAP_CLOSE = "mem_gap", (4e-6, 1e-5)
"""A share made of differences, of which few digits are left. The stored optimum was summed in
float32: float64 differs from it by 2e-6 where the exact sums differ by 6e-8."""
LEVEL_PROOF = (EXIT_STATUS, "verdict", "interval", "num_leaking", "ratio", "gate", "class", "leak")
"""What does not change where a network's images differ by a level: copies are far from the limit.
"""


def numbers_of(report: dict[str, Any]) -> dict[str, Any]:
    """Every ratio, interval and verdict in report.json, by names that no layout changes.

    A proportion is [count, total, ratio, low, high, confidence], an estimate [value, low, high].
    """
    numbers: dict[str, Any] = {
        name: report[name]
        for name in ("verdict", "interval", "num_degenerate", "num_leaking_images")
    }

    def proportion(p: dict[str, Any] | None) -> list[Any] | None:
        parts = ("count", "total", "ratio", "low", "high", "confidence")
        return None if p is None else [p[part] for part in parts]

    def estimate(e: dict[str, Any] | None) -> list[Any] | None:
        return None if e is None else [e["value"], e["low"], e["high"]]

    for rule in ("paper", "distinct", "distinct_at_0"):
        numbers[f"ratio {rule}"] = proportion(report["ratios"][rule])
    if gate := report["gate"]:
        parts = ("verdict", "method", "count", "total", "limit", "confidence")
        numbers["gate"] = [gate[part] for part in parts]
        parts = ("evidence_above", "evidence_below", "required")
        numbers["gate evidence"] = [gate[part] for part in parts]
    for row in report["sensitivity"]:
        if row["threshold"] is None:
            continue
        rule = f"{row['threshold']} at {row['duplicate_rms']:g}"
        numbers[f"sensitivity {rule}"] = proportion(row["ratio"])
    found = report["diagnostics"]
    for row in found["classes"] or ():
        i = row["class_index"]
        numbers[f"class ratio {i}"] = proportion(row["proportion"])
        numbers[f"class p {i}"] = [row["p_value"], row["p_adjusted"]]
        numbers[f"class stands out {i}"] = row["stands_out"]
    leak = found["richness"]
    parts = ("num_hits", "num_leaking", "num_once", "num_twice", "confidence")
    numbers["leak"] = [leak[part] for part in parts]
    chao1 = leak["chao1"]
    # Where no image was copied twice, the stored estimate and its lower end are no longer given.
    is_open = chao1 is not None and chao1["value"] is None
    numbers["leak chao1"] = [chao1["high"]] if is_open else estimate(chao1)
    numbers["leak unseen share"] = estimate(leak["unseen_share"])
    numbers["authentic"] = proportion(found["authentic"])

    if holdout := found["holdout"]:
        numbers["holdout images"] = holdout["num_images"]
        # Floor and excess now leave out held-out images near a training image; all of them are
        # counted as they were.
        numbers["holdout ratio distinct"] = proportion(holdout["everyone"])
        copying = found["copying"]
        numbers["copying"] = [copying["value"], copying["spread"]]
        parts = ("num_holdout", "num_generated", "z")
        for i, cell in enumerate(copying["cells"]):
            numbers[f"copying cell {i}"] = [cell[part] for part in parts]
    if optimality := found["optimality"]:
        parts = ("num_train", "num_holdout", "num_trajectories", "confidence")
        numbers["optimum"] = [optimality[part] for part in parts]
        numbers["optimum agreement"] = proportion(optimality["agreement"])
        for i, row in enumerate(optimality["at_sigma"]):
            numbers[f"optimum at {i} sigma"] = row["sigma"]
            for part in ("trajectory", "mem_gap"):
                numbers[f"optimum at {i} {part}"] = estimate(row[part])
            for images in ("train", "holdout"):
                for part, value in (row[images] or {}).items():
                    numbers[f"optimum at {i} {images} {part}"] = estimate(value)
    if returned := found["noise_and_return"]:
        for row in returned["at_sigma"]:
            for images in ("train", "holdout"):
                numbers[f"return {images} {row['sigma']:g}"] = proportion(row[images])
        attractors = returned["attractors"]
        numbers["return attractors"] = [[row["index"], row["sigma"]] for row in attractors]
        numbers["return holdout sigma"] = returned["holdout_sigma"]
    if membership := found["membership"]:
        parts = ("num_train", "num_holdout", "max_fpr")
        numbers["membership"] = [membership[part] for part in parts]
        for part in ("tpr", "fpr"):
            numbers[f"membership {part}"] = proportion(membership[part])
        numbers["membership score"] = [membership["auc"]["value"], membership["threshold"]]
    return numbers


# Inputs.


def random_bits(name: str, count: int) -> np.ndarray:
    """uint64 [count] that only the name decides: SplitMix64."""
    start = zlib.crc32(name.encode()) * 0xD1342543DE82EF95 % 2**64
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def noise_images(name: str, num_images: int, shape: tuple[int, ...] = (3, 8, 8)) -> np.ndarray:
    """Images of which no two are alike, uint8 [N, *shape]."""
    bits = random_bits(name, num_images * int(np.prod(shape)))
    return (bits >> np.uint64(56)).astype(np.uint8).reshape(num_images, *shape)


def near(images: np.ndarray, name: str, spread: int) -> np.ndarray:
    """Images off by up to `spread` levels a pixel: an RMS of √(spread·(spread + 1)/3), or less."""
    bits = random_bits(name, images.size) >> np.uint64(32)
    change = (bits % np.uint64(2 * spread + 1)).astype(np.int64) - spread
    return (images + change.reshape(images.shape)).clip(0, 255).astype(np.uint8)


def blends(images: np.ndarray) -> np.ndarray:
    """The first image with more and more of the second: ratios k/(20 − k) for k = 1 … 9."""
    a, b = images[:2].astype(np.int64)
    mixed = [((20 - k) * a + k * b + 10) // 20 for k in range(1, 10)]
    return np.stack(mixed).astype(np.uint8)


def even(levels: list[int]) -> np.ndarray:
    """Images of one gray level each: ties, and distances and ratios that are just at a limit."""
    return np.repeat(np.array(levels, dtype=np.uint8), 3 * 8 * 8).reshape(-1, 3, 8, 8)


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1]


def training_images(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """80 images, and 40 that are the same as one of them or closer than strangers: uint8 [120]."""
    first = noise_images(name, 80, shape)
    return np.concatenate(
        [
            first,
            first[:12],
            first[:1],
            near(first[12:24], f"{name} 5", 5),  # 3.2 levels
            near(first[24:32], f"{name} 12", 12),  # 7.2
            near(first[32:38], f"{name} 20", 20),  # 11.8
            near(first[79:], f"{name} 3", 3),
        ]
    )


def mixed_images(train: np.ndarray, name: str, num_new: int) -> np.ndarray:
    """Copies of every kind, and new images among them."""
    images = np.concatenate(
        [
            train[:6],
            near(train[12:18], f"{name} a", 3),
            near(train[24:27], f"{name} b", 6),
            near(train[32:35], f"{name} c", 6),
            near(train[[40, 41, 42, 40, 43, 40, 41]], f"{name} d", 10),
            near(mirrored(train[46:50]), f"{name} e", 4),
            blends(train[52:54]),
            noise_images(f"{name} new", num_new, train.shape[1:]),
        ]
    )
    return images[mixing_order(name, len(images))]


def mixing_order(name: str, num_images: int) -> np.ndarray:
    """Which image of each kind comes where: int64 [N]."""
    return np.argsort(random_bits(f"{name} order", num_images), kind="stable")


def held_out_images(train: np.ndarray, name: str, num_images: int) -> np.ndarray:
    """New images but for eight that the rule flags, one of them in the mirror."""
    return np.concatenate(
        [
            near(train[60:65], f"{name} a", 4),
            near(train[12:14], f"{name} b", 4),
            near(mirrored(train[66:67]), f"{name} c", 4),
            noise_images(f"{name} new", num_images - 8, train.shape[1:]),
        ]
    )


def classes_of(num_images: int, num_classes: int = 3) -> np.ndarray:
    """int64 [N]"""
    return np.arange(num_images) * 7 // 3 % num_classes


class Flat(torch.nn.Module):
    """Pixels as they are: nothing is added up, in whatever order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


class Sums(torch.nn.Module):
    """Sums of 2×2 gray levels and their channels' signs: whole numbers, exact in any order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = torch.round(x * 255)
        return torch.nn.functional.avg_pool2d(levels, 2).mul(4).flatten(1) + 1


PLANTED = """
import numpy as np
import torch


class Planted:
    img_channels, img_resolution = 3, 8

    def __call__(self, x, sigma, class_labels=None):
        answers = np.load("answers.npz")["images"]
        answer = answers[(x.flatten(1) > 0).sum(1).numpy()]
        return torch.from_numpy(answer) / 127.5 - 1


def model():
    return Planted()
"""
"""Answers by the number of positive pixels, which rounding does not change."""


def make_inputs(folder: Path, *, sampled: dict[str, np.ndarray]) -> None:
    """Write whatever the scans read, `sampled` being what the networks gave; {} writes less."""
    make_networks(folder)
    train = training_images("train", (3, 8, 8))
    mixed = mixed_images(train, "mixed", 10)
    kind = mixing_order("mixed", len(mixed))  # mostly copies first
    held = held_out_images(train, "held", 40)
    labels = classes_of(len(train))
    gray = training_images("gray", (1, 8, 8))
    alike = near(np.repeat(noise_images("alike", 1), 5, 0), "alike 3", 3)
    arrays = {
        "color": [train],
        "mixed": [mixed],
        "fresh": [noise_images("fresh", 40)],
        "held": [held],
        "many_held": [held_out_images(train, "many", 104)],
        "labeled": [train, labels],
        "labeled_mixed": [mixed, np.where(kind < 19, 1, kind % 2 * 2)],
        "labeled_held": [held, classes_of(len(held))],
        "gray": [gray],
        "gray_mixed": [mixed_images(gray, "gray mixed", 4)],
        "alike": [alike],
        "alike_mixed": [np.concatenate([alike[:2], near(alike, "mixed", 1), train[:5]])],
        "edges": [even([60, 20, 158, 150, 166, 250])],
        "edge_levels": [even([*range(22, 60, 2), *range(148, 170)])],
        "same": [np.repeat(train[:1], 12, 0)],
        "answers": [answers(train)],
    }
    if sampled:
        known = known_images(sampled)
        arrays |= {"known": [known], "labeled_known": [known, classes_of(len(known))]}
        for name in SAMPLED:
            arrays[f"sampled_{name}"] = [sampled[name]]
            if name in CONDITIONAL:
                arrays[f"sampled_{name}"].append(sampled[f"{name}_labels"])
    for name, images in arrays.items():
        np.savez(folder / f"{name}.npz", **dict(zip(("images", "labels"), images, strict=False)))

    photos = training_images("photos", (3, 16, 16))
    write_folder(folder / "classes", photos, 30)
    write_folder(folder / "made", mixed_images(photos, "made", 6), 12)
    (folder / "planted.py").write_text(PLANTED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is said to be on its way out
        torch.jit.script(Flat()).save(str(folder / "flat.pt"))
        torch.jit.script(Sums()).save(str(folder / "sums.pt"))


def answers(train: np.ndarray) -> np.ndarray:
    """What the planted model gives, uint8 [193, 3, 8, 8]: every fourth is a copy."""
    images = noise_images("answers", 3 * 8 * 8 + 1)
    images[::4] = near(train[np.arange(0, len(images), 4) * 7 % 80], "copies", 5)
    return images


def known_images(sampled: dict[str, np.ndarray]) -> np.ndarray:
    """Training images of the networks: noise, and some of what they give, twice or nearly so."""
    some = [near(sampled[name][1:14:3], f"known {name}", 3) for name in SAMPLED]
    twice = sampled["plain"][[3, 20]]
    return np.concatenate(
        [noise_images("known", 40), *some, twice, twice, near(some[0][:3], "known twice", 8)]
    )


def write_folder(folder: Path, images: np.ndarray, num_of_class: int) -> None:
    """PNG files in one folder per class, `num_of_class` in each."""
    for i, image in enumerate(images):
        path = folder / "abcdefgh"[i // num_of_class] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)


def make_networks(folder: Path) -> None:
    """Native checkpoints of a small network without classes, and with three."""
    for name, label_dim in (("network", 0), ("conditional", 3)):
        config = {
            "class_name": "EDMPrecond",
            "img_resolution": 8,
            "img_channels": 3,
            "label_dim": label_dim,
            "model_type": "SongUNet",
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
        }
        tensors = {
            key: tensor if key.endswith("resample_filter") else weights(f"{name} {key}", tensor)
            for key, tensor in build_network(config).state_dict().items()
        }
        metadata = {"format": "memaudit", "format_version": "1", "provenance": "{}"}
        metadata["config"] = json.dumps(config)
        save_file(tensors, folder / f"{name}.safetensors", metadata)


def weights(name: str, like: torch.Tensor) -> torch.Tensor:
    """Weights of a tensor's shape that only the name decides, float32."""
    v = (random_bits(name, like.numel()) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    v = v.reshape(like.shape)
    if name.endswith(".weight") and like.ndim == 1:
        v = 1 + v / 4
    else:
        v = v * (1.5 / np.prod(like.shape[1:])) ** 0.5 if like.ndim > 1 else v / 8
    return torch.from_numpy(v.astype(np.float32))


# The tests.


def run(folder: Path, *args: str) -> Result:
    """Run `memaudit ARGS…` in a folder, with a cache of its own there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner(env={"MEMAUDIT_CACHE": str(folder / "cache")}).invoke(cli, args)
    finally:
        os.chdir(before)


def scan(folder: Path, name: str, command: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The tables and the numbers of a scan."""
    result = run(folder, "scan", *shlex.split(command), "--out", f"report_{name}")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code != 2, result.output
    report = folder / f"report_{name}"
    tables = {table: without_added((report / table).read_text()) for table in TABLES}
    numbers = numbers_of(json.loads((report / "report.json").read_text()))
    return tables, {EXIT_STATUS: result.exit_code, **numbers}


def without_added(table: str) -> str:
    """A table without the columns that were added since the results were stored."""
    header, *rows = csv.reader(io.StringIO(table))
    kept = [place for place, name in enumerate(header) if name not in ADDED]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([row[place] for place in kept] for row in (header, *rows))
    return text.getvalue()


def sample(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What a network gives: its images, and their classes, if any."""
    file = folder / f"now_{name}.npz"
    result = run(folder, "sample", *shlex.split(SAMPLED[name]), "--out", str(file))
    assert result.exit_code == 0, result.output
    with np.load(file) as arrays:
        found = {name: arrays["images"]}
        if name in CONDITIONAL:
            found[f"{name}_labels"] = arrays["labels"]
    return found


def network_command(name: str) -> str:
    sampled, judged, asked = NETWORK_SCANS[name]
    return f"{SAMPLED[sampled]} {judged} {asked}"


def stored_samples() -> dict[str, np.ndarray]:
    with np.load(SAMPLES) as arrays:
        return dict(arrays)


def stored_tables(name: str) -> dict[str, str]:
    return {table: (STORED / name / table).read_text() for table in TABLES}


def stored_numbers(name: str) -> dict[str, Any]:
    numbers = json.loads((STORED / name / NUMBERS).read_text())
    return {key: value for key, value in numbers.items() if key not in REPLACED}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the commands are given in."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder, sampled=stored_samples())
    yield folder
    sys.modules.pop("planted", None)


@pytest.fixture(scope="module")
def sampled_alike(inputs: Path) -> dict[str, bool]:
    """Whether the networks give the stored images here; never off by more than a level."""
    stored, alike = stored_samples(), {}
    for name in SAMPLED:
        for key, images in sample(inputs, name).items():
            differences = np.abs(images.astype(np.int64) - stored[key])
            assert differences.max() <= (0 if key.endswith("_labels") else 1), key
            alike[name] = alike.get(name, True) and not differences.any()
    return alike


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_gives_the_stored_results(inputs: Path, name: str):
    tables, numbers = scan(inputs, name, SCANS[name])
    stored = stored_tables(name)
    for table in TABLES:
        assert tables[table] == stored[table]
    check_numbers(numbers, stored_numbers(name))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "network_all_tests" else [])
        for name in NETWORK_SCANS
    ],
)
def test_a_scan_of_a_network_gives_the_stored_results(
    inputs: Path, sampled_alike: dict[str, bool], name: str
):
    tables, numbers = scan(inputs, name, network_command(name))
    stored = stored_numbers(name)
    if sampled_alike[NETWORK_SCANS[name][0]]:
        assert tables == stored_tables(name)
        check_numbers(numbers, stored)
    else:
        of_any = {key: value for key, value in stored.items() if key.startswith(LEVEL_PROOF)}
        check_numbers({key: numbers.get(key) for key in of_any}, of_any)


@pytest.mark.parametrize("name", NETWORK_SCANS)
def test_stored_images_of_a_network_match_as_they_did_when_sampled(inputs: Path, name: str):
    sampled, judged, _ = NETWORK_SCANS[name]
    tables, _ = scan(inputs, f"{name}_given", f"sampled_{sampled}.npz {judged}")
    found, stored = (
        [row[1:] for row in csv.reader(text.splitlines())]
        for text in (tables["matches.csv"], stored_tables(name)["matches.csv"])
    )
    assert found[: len(stored)] == stored


def check_numbers(found: dict[str, Any], stored: dict[str, Any]) -> None:
    """Whether numbers are the stored ones, as exactly as their computation is repeatable."""
    assert found.keys() == stored.keys()
    if len(found["leak chao1"] or ()) == 1:
        stored = {**stored, "leak chao1": stored["leak chao1"][-1:]}
    for key, expected in stored.items():
        relative, absolute = tolerance(key)
        for value, wanted in zip(flat(found[key]), flat(expected), strict=True):
            if isinstance(wanted, float) and (relative or absolute):
                assert value == pytest.approx(wanted, rel=relative, abs=absolute), key
            else:
                assert value == wanted, key


def tolerance(key: str) -> tuple[float, float]:
    """How close a number is to be, relative or absolute; (0, 0) for equal."""
    if key.endswith(MEM_GAP):
        return MEM_GAP_CLOSE
    for start, close in MEASURED.items():
        if key.startswith(start):
            return close
    same = arithmetic() == ARITHMETIC.read_text() and not key.startswith(LAST_BITS)
    return (0.0, 0.0) if same else (CLOSE, 0.0)


@cache
def arithmetic() -> str:
    """A hash of numbers that intervals are made of: equal where they are equal to the last bit."""
    n = np.repeat(np.arange(1, 133), np.arange(2, 134))
    k = np.arange(len(n)) - np.searchsorted(n, n)  # 0 … n
    hits, misses = np.maximum(k, 1), n - np.minimum(k, n - 1)
    logarithms = [math.log(x) for x in (k + 0.5) / (n + 1)]
    values = [
        beta.ppf(0.025, hits, n - hits + 1),
        beta.isf(0.025, k + 1 - (k == n), misses),
        betaln(k + 0.5, n - k + 0.5),
        np.array(logarithms),
    ]
    return hashlib.sha256(np.concatenate(values).tobytes()).hexdigest()


def flat(value: Any) -> list[Any]:
    """The values in a list of lists; a value alone is a list of one."""
    return [x for item in value for x in flat(item)] if isinstance(value, list) else [value]


def test_the_stored_scans_reach_every_verdict_and_both_kinds_of_interval():
    numbers = [stored_numbers(name) for name in (*SCANS, *NETWORK_SCANS)]
    outcomes = {(found[EXIT_STATUS], found["verdict"], found["interval"]) for found in numbers}
    gated = {(1, "FAIL"), (0, "PASS"), (3, "INCONCLUSIVE")}
    assert outcomes == {(0, None, "Clopper-Pearson")} | {
        (*outcome, interval)
        for outcome in gated
        for interval in ("Clopper-Pearson", "mixture sequence")
    }


def write_stored_scans() -> None:
    """Write the results of the code as it is. Not to be done to make a test pass."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs(folder, sampled={})
        samples: dict[str, np.ndarray] = {}
        for name in SAMPLED:
            samples |= sample(folder, name)
        np.savez_compressed(SAMPLES, **samples)
        make_inputs(folder, sampled=stored_samples())
        commands = SCANS | {name: network_command(name) for name in NETWORK_SCANS}
        for name, command in commands.items():
            tables, numbers = scan(folder, name, command)
            (STORED / name).mkdir(exist_ok=True)
            for table, text in tables.items():
                (STORED / name / table).write_text(text)
            lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(numbers[key])}" for key in numbers)
            (STORED / name / NUMBERS).write_text(f"{{\n{lines}\n}}\n")
    ARITHMETIC.write_text(arithmetic())


if __name__ == "__main__":
    write_stored_scans()
