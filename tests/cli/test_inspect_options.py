"""`memaudit inspect` says of every option who says it."""

import json
import re

import pytest
import torch
from helpers.openai_unet import make_unet
from helpers.terminal import run_on_terminal


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "ema_0.9999_000100.pt"
    torch.save(make_unet(num_heads=4, channel_mult=(1,)).state_dict(), path)
    return path


def test_who_says_what_is_printed(run, weights):
    result = run("inspect", weights, "--arch", "img_resolution=8,num_heads=2")
    assert result.exit_code == 0
    text = re.sub(r"\s+", " ", result.output)
    assert "num_heads 2 (the user says)" in text and text.count(" num_heads 2 ") == 1
    assert 'schedule "linear" (assumed by default)' in text
    assert "Assumed by default, since the file does not show it" in text

    facts = json.loads(run("inspect", weights, "--arch", "img_resolution=8", "--json").output)
    found = {fact["name"]: fact["origin"] for fact in facts["network"]["facts"]}
    assert found["img_resolution"] == "user" and found["num_heads"] == "default"


def test_what_is_missing_is_asked_for_by_its_option(run, weights):
    result = run("inspect", weights)
    assert result.exit_code == 2
    problem = re.sub(r"\s+", " ", result.output)
    assert "of its images: say it with --arch, as img_resolution=32." in problem
    result = run("scan", weights, "--data", weights.parent, "--arch", "heads=3")
    assert result.exit_code == 2
    assert re.search(r"no option 'heads'; its options\s+are", result.output)


def test_what_is_assumed_is_said_by_every_command_that_opens_it(run, weights, tmp_path):
    arch = ("--arch", "img_resolution=8")
    native = tmp_path / "net.safetensors"
    assert "Assumed by default" in run("convert", weights, native, *arch).stderr
    options = ("--seeds", "0-1", "--steps", "2")
    for source in ([weights, *arch], [native]):
        out = tmp_path / source[0].suffix[1:]
        assert "Assumed by default" in run("sample", *source, "--out", out, *options).stderr


def test_no_word_is_broken_on_a_terminal_of_80_columns(weights):
    status, text = run_on_terminal(
        "inspect",
        weights.name,
        "--arch",
        "img_resolution=8",
        cwd=weights.parent,
        env={"COLUMNS": "80"},
    )
    assert status == 0, text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    warning = next(i for i, line in enumerate(lines) if "Assumed by default" in line)
    assert max(map(len, lines[warning:])) <= 80
    assert re.match(r" {26}\S", lines[warning + 1])
    assert any(re.fullmatch(r"sha256 {20}[0-9a-f]{64}", line) for line in lines)
