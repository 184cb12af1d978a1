"""Values of options, as people write them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import click
import pytest
from click.testing import Result

from memaudit.audit.config import ScanConfig
from memaudit.cli.main import COMMANDS, cli
from memaudit.cli.options import ConfigOption, Ratio, Share
from memaudit.options import Option, config_fields

Run = Callable[..., Result]

SHARE = Share(Option("A share.", above=0, below=1))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("0.001", 0.001),
        ("1e-3", 0.001),
        ("0.1%", 0.001),
        ("0.1 %", 0.001),
        (" .1% ", 0.001),
        ("1/1000", 0.001),
        ("1 / 1000", 0.001),
        ("5%", 0.05),
        ("1/3%", 1 / 300),
        ("0", 0.0),
        ("100%", 1.0),
        ("-1", -1.0),
    ],
)
def test_a_share_is_understood_as_people_write_it(text: str, share: float):
    assert SHARE.convert(text, None, None) == pytest.approx(share, rel=1e-12)
    assert SHARE.convert(share, None, None) == share


HUGE = ("1e999999999", "1e-999999999%", "9" * 5000, "1/" + "9" * 5000)
"""What Fraction would compute for hours, or refuse in words of its own."""


@pytest.mark.parametrize(
    "text", ["", "%", "a few", "0.1%%", "0.1% of", "1/0", "nan", "inf", "5,0", ".", "e-3", *HUGE]
)
def test_what_is_no_share_is_refused_with_three_ways_to_write_one(text: str):
    with pytest.raises(click.BadParameter, match=r"write 0\.001, 0\.1% or 1/1000"):
        SHARE.convert(text, None, None)


@pytest.mark.parametrize("text", ["1/0", "many", *HUGE])
def test_what_is_no_ratio_is_refused_at_once(text: str):
    with pytest.raises(click.BadParameter, match=r"is not a share; write 1/3 or 0\.25"):
        Ratio().convert(text, None, None)
    assert Ratio().convert("1/3", None, None) == Fraction(1, 3)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("0", "No number of samples proves 0; 0.001 shows at most 0.1 %, with about 3,800 images"),
        ("0%", "No number of samples proves 0"),
        ("5", "did you mean 5%?"),
        ("1", "did you mean 1%?"),
        ("100", "0.99 is a limit, and without --fail-above the share is measured"),
        ("1.5", "did you mean 1.5%?"),
        ("100%", "--fail-above is 1.0; between 0 and 1 is needed. A limit of all images passes"),
        ("-0.1", "--fail-above is -0.1; between 0 and 1 is needed"),
        ("200", "--fail-above is 200.0; between 0 and 1 is needed"),
    ],
)
def test_a_limit_that_cannot_be_is_answered_with_the_nearest_one(
    run: Run, make_npz: Callable[..., Path], given: str, answer: str
):
    images = make_npz(10)
    result = run("scan", images, "--data", images, f"--fail-above={given}")
    assert result.exit_code == 2
    assert answer in " ".join(result.stderr.split()).replace("│ ", "")


def test_a_limit_in_percent_is_the_limit(run: Run, make_npz: Callable[..., Path]):
    images = make_npz(10)
    result = run("scan", images, "--data", images, "--fail-above", "10 %")
    assert result.exit_code == 1 and "more than 10.0 %" in result.stdout


def test_every_option_that_is_a_share_takes_one():
    shares = set()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        for param in command.params if command is not None else ():
            if isinstance(param, ConfigOption):
                option = config_fields(param.config)[param.name or ""].option
                assert option is not None
                assert isinstance(param.type, Share) == option.is_share
                if option.is_share:
                    shares.add(param.name)
    assert {"fail_above", "confidence", "epsilon"} <= shares
    assert config_fields(ScanConfig)["fail_above"].type is float
