"""What a command says is in the words of its options, not in those of the library."""

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from memaudit.cli.main import COMMANDS, cli, option_names
from memaudit.cli.options import ConfigOption
from memaudit.data.selection import Selection
from memaudit.data.set_recipe import SetRecipe
from memaudit.errors import ConfigError
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields

Run = Callable[..., Result]


def commands() -> dict[str, click.Command]:
    """Every command by its words, such as `dataset build`."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": one for sub, one in command.commands.items()}
        elif command is not None:
            found[name] = command
    return found


def options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


@pytest.mark.parametrize("words", commands())
def test_every_option_says_what_it_does(words: str) -> None:
    assert [option.opts for option in options(commands()[words]) if not option.help] == []


def test_options_of_a_configuration_are_what_its_fields_say() -> None:
    seen = set()
    for command in commands().values():
        for option in options(command):
            if not isinstance(option, ConfigOption):
                continue
            field = config_fields(option.config)[option.name or ""]
            assert field.option is not None and (option.help or "").startswith(field.option.help)
            alias = field.option.alias
            assert option.opts == [field.flag] + ([] if alias is None else [alias])
            assert option.metavar in (field.option.metavar, None)
            if field.choices:
                assert isinstance(option.type, click.Choice)
                assert tuple(option.type.choices) == field.choices
            if isinstance(field.default, bool | int | float | str):
                assert option.default == field.default
            seen.add(option.config)
    assert {Selection, SetRecipe, SamplerConfig} <= seen


def test_a_message_calls_fields_by_the_options_of_its_command() -> None:
    error = ConfigError("{label_seed} is -1 in runs/label_seed/{x}.", field="label_seed")
    assert str(error) == "label_seed is -1 in runs/label_seed/{x}."
    group = cli.get_command(click.Context(cli), "dataset")
    assert group is not None
    assert error.worded(option_names(group)) == "--label-seed is -1 in runs/label_seed/{x}."


@pytest.mark.parametrize("words", ["scan", "sample", "train"])
def test_no_error_about_a_value_names_a_field(
    run: Run, checkpoint: Path, tmp_path: Path, words: str
) -> None:
    """Each option that takes a number, with one that cannot be; the data cannot be read either."""
    command = commands()[words]
    (tmp_path / "broken").write_bytes(b"no images")
    sources: dict[str, list[str | Path]]
    sources = {"scan": [checkpoint], "sample": ["optimum"], "train": []}
    arguments = [words, *sources[words], "--data", tmp_path / "broken", "--out", tmp_path / "out"]
    refused = 0
    for option in options(command):
        if option.is_flag or not isinstance(
            option.type, click.types.FloatParamType | click.types.IntParamType
        ):
            continue
        result = run(*arguments, option.opts[0], "-1")
        assert result.exit_code == 2, option.opts
        for other in options(command):
            if "_" in other.name and other.name not in other.opts[0]:
                assert not re.search(rf"\b{other.name}\b", result.stderr)
        refused += option.opts[0] in result.stderr
    assert refused >= 6
