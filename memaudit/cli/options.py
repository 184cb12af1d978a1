"""Options that several commands share, and the kinds of value they take."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import click

from memaudit.audit.report.pictures import Pictures
from memaudit.data.path_ranges import is_range
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.errors import ConfigError
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import ConfigField, Option, config_fields
from memaudit.wording import MAX_NUMBERS, counted, parse_fraction, shown

if TYPE_CHECKING:
    from memaudit.data.images import ImageSet

Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config")


class SeedList(click.ParamType):
    """Seeds as `0-9999`, `3`, or several of these with commas."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            try:
                start = int(first)
                stop = int(last) if dash else start
            except ValueError:
                self.fail(
                    f"{shown(value)} is not a list of seeds; write 0-9999 or 0,5,9.", param, ctx
                )
            if stop < start:
                self.fail(f"{shown(part.strip())} ends before it starts.", param, ctx)
            if len(seeds) + stop - start >= MAX_NUMBERS:
                self.fail(f"{shown(value)} is more than {MAX_NUMBERS:,} seeds.", param, ctx)
            seeds.extend(range(start, stop + 1))
        return tuple(seeds)


class Ratio(click.ParamType):
    """A share between 0 and 1, as `1/3` or `0.25`, kept exact."""

    name = "RATIO"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        if isinstance(value, Fraction):
            return value
        try:
            return parse_fraction(str(value).strip())
        except ValueError:
            self.fail(f"{shown(value)} is not a share; write 1/3 or 0.25.", param, ctx)


class Share(click.ParamType):
    """A share as a float: `0.001`, `1e-3`, `0.1%`, `0.1 %` or `1/1000`.

    Only what cannot be a share is refused here; the range is the library's to check.
    """

    name = "SHARE"

    def __init__(self, option: Option) -> None:
        self._option = option

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        number, percent, rest = text.partition("%")
        try:
            if rest:
                raise ValueError
            share = float(parse_fraction(number.replace(" ", ""))) / (100 if percent else 1)
        except ValueError:
            self.fail(f"{shown(value)} is not a share; write 0.001, 0.1% or 1/1000.", param, ctx)
        if not percent and 1 <= share < 100 and not self._option.admits(share):
            self.fail(f"{text} is not {self._option.range_text}; did you mean {text}%?", param, ctx)
        return share


class ImageSize(click.ParamType):
    """A height and a width: `32` for 32x32, or `32x48`."""

    name = "SIZE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().replace("×", "x").split("x")
        try:
            sides = tuple(int(part) for part in parts)
        except ValueError:
            sides = ()
        if len(sides) not in (1, 2):
            self.fail(
                f"{shown(value)} is not a size; write 32, or 32x48 (height x width).", param, ctx
            )
        return sides[0], sides[-1]


class IntegerList(click.ParamType):
    """Whole numbers with commas, such as `2,2,2`."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers; write 2,2,2.", param, ctx)


class TextList(click.ParamType):
    """Texts with commas, such as `cat,dog`."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(","))


class NumberList(click.ParamType):
    """Numbers with commas, such as `0.5,1,2`."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; write 0.5,1,2.", param, ctx)


def config_options(
    config: type, *names: str, but: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Options for the fields of a configuration; default, choices, range and help are the field's.

    Args:
        config: a frozen dataclass whose fields are annotated with `memaudit.options.Option`.
        names: fields to make options of; by default all that have an `Option`.
        but: fields that are left out of these.
    """

    def decorate(command: Command) -> Command:
        described = config_fields(config)
        chosen = names or tuple(name for name, field in described.items() if field.option)
        for name in reversed([name for name in chosen if name not in but]):
            command = _option_of(config, described[name])(command)
        return command

    return decorate


class ConfigOption(click.Option):
    """An option that sets a field of a configuration."""

    config: type
    field: ConfigField


def from_options(config: type[Config], options: dict[str, Any], **others: Any) -> Config:
    """A configuration from a command's options, which are taken out of `options`.

    Args:
        config: what to make.
        options: values by parameter; those that are fields of `config` are removed.
        others: fields that no option sets.
    """
    taken = {name: options.pop(name) for name in config_fields(config) if name in options}
    return config(**taken, **others)


def _option_of(config: type, field: ConfigField) -> Callable[[Command], Command]:
    option = field.option
    if option is None:
        raise ValueError(f"{config.__name__}.{field.name} has no Option")
    help_text = option.help
    if field.default in (None, ()) and option.default_text is not None:
        help_text += f"  [default: {option.default_text}]"
    is_flag = field.type is bool
    default = field.default
    if isinstance(default, Fraction):
        default = str(default)
    make = click.option(
        field.flag,
        *([option.alias] if option.alias is not None else []),
        field.name,
        cls=ConfigOption,
        type=None if is_flag else _click_type(field),
        is_flag=is_flag,
        multiple=_may_be_repeated(field),
        callback=_concatenate if _may_be_repeated(field) else None,
        default=default,
        show_default=default not in (None, ()) and not is_flag,
        metavar=None if is_flag else option.metavar,
        help=help_text,
    )

    def decorate(command: Command) -> Command:
        command = make(command)
        made = command.__click_params__[-1]  # type: ignore[attr-defined]
        made.config, made.field = config, field
        return command

    return decorate


def _click_type(field: ConfigField) -> click.ParamType:
    """The kind of value that a field takes; the range is the library's to check."""
    if field.choices:
        return click.Choice(field.choices)
    if field.option is not None and field.option.is_size:
        return ImageSize()
    if get_origin(field.type) is tuple:
        lists: dict[Any, click.ParamType] = {int: IntegerList(), float: NumberList()}
        return lists.get(get_args(field.type)[0], TextList())
    if field.option is not None and field.option.is_share:
        return Share(field.option)
    kinds: dict[Any, click.ParamType] = {
        int: click.INT,
        float: click.FLOAT,
        str: click.STRING,
        Fraction: Ratio(),
        Path: ImagesPath(),
    }
    return kinds[field.type]


def _may_be_repeated(field: ConfigField) -> bool:
    """Whether a field is a list that is empty by default, to which each option adds."""
    return get_origin(field.type) is tuple and field.default == ()


def _concatenate(
    ctx: click.Context, param: click.Parameter, values: tuple[tuple[Any, ...], ...]
) -> tuple[Any, ...]:
    return tuple(item for value in values for item in value)


OPTIMUM = "optimum"
"""The SOURCE of that name; audit/source.py has it too, but takes seconds to import."""


class ImagesPath(click.Path):
    """A path that exists, or a range of tars: `shards/{000..123}.tar`."""

    def __init__(self) -> None:
        super().__init__(exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if is_range(path) and not path.exists():
            return path
        return Path(os.fsdecode(super().convert(value, param, ctx)))


class SourcePath(ImagesPath):
    """A path that exists, a range of tars, the word `optimum`, or `module:function`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value) == OPTIMUM or ":" in str(value):
            return Path(value)
        return Path(os.fsdecode(super().convert(value, param, ctx)))


data_option = click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    required=True,
    metavar="PATH",
    help="Training images: a folder, .zip, .npz or .npy, shards such as parquet, tars or "
    "{000..123}.tar, HDF5, LMDB and others; docs/sets.md has them all.",
)


def data_options(command: Command) -> Command:
    """`--data`, which of its images to take, and how to prepare them."""
    return data_option(selection_options(config_options(Preparation)(command)))


selection_options = config_options(Selection, but=["groups_from"])
"""Which images to take; `group_option` stands beside it in commands that tell groups apart."""
group_option = config_options(Selection, "groups_from")


holdout_split_option = click.option(
    "--holdout-split",
    metavar="NAME",
    help="The split of --holdout to take, such as test; it may be of the same source as --data.",
)


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Where to compute: cpu, cuda, one GPU such as cuda:1, or mps or xpu for the network and "
    "the CPU for the rest. auto takes a CUDA GPU if there is one that this PyTorch supports.",
)


def _launch_ranks(ctx: click.Context, param: click.Parameter, devices: str | None) -> None:
    """Run the same command in several processes, and exit with its status."""
    if devices is None or ctx.resilient_parsing:
        return
    from memaudit.ranks.joined import joined_place
    from memaudit.ranks.launch import choose_ranks, launch_here

    if (place := joined_place()) is not None:
        raise ConfigError(
            f"{{devices}} starts processes, but {place.num_ranks} of them run this command "
            "already. Leave it out.",
            field="devices",
        )
    kind, num_ranks, environment = choose_ranks(devices)
    given = _without(sys.argv[1:], "--devices")
    ctx.exit(launch_here([*given, "--device", kind], num_ranks, environment=environment))


def _without(arguments: list[str], option: str) -> list[str]:
    """Arguments without an option and its value."""
    rest = iter(arguments)
    kept = []
    for argument in rest:
        if argument == option:
            next(rest, None)
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


devices_option = click.option(
    "--devices",
    metavar="LIST",
    expose_value=False,
    callback=_launch_ranks,
    help="Share the work among all GPUs of this machine (all), some (0,1), or processes on the CPU "
    "(cpu:4), with the same result. For several machines: memaudit torchrun.",
)

arch_option = click.option(
    "--arch",
    metavar="NAME,OPTION=VALUE,...",
    help="What a checkpoint does not say of its network: the published network or the program that "
    "its weights are of, such as cifar10-ddpmpp-edm or torchcfm, and options, such as num_heads=8. "
    "docs/checkpoints.md lists them.",
)


def sampler_options(command: Command) -> Command:
    """Options of EDM's samplers, named as in the paper, and `--class`."""
    return class_option(config_options(SamplerConfig)(command))


class_option = click.option(
    "--class",
    "class_index",
    metavar="CLASS",
    help="Generate one class only, by its number or, with training images that have class names, "
    "by its name.  [default: drawn from each seed]",
)


def generated_options(command: Command) -> Command:
    """`--samples`, `--seeds` and `--class` of commands that sample 1,000 images by default."""
    samples = click.option(
        "--samples",
        type=int,
        metavar="N",
        help="Images to generate, with seeds 0 to N-1.  [default: 1000]",
    )
    seeds = click.option(
        "--seeds",
        type=SeedList(),
        help="One seed per generated image, such as 0-9999 or 3,7,20-29.",
    )
    return samples(seeds(class_option(command)))


def choose_class(
    given: str | None, data: "ImageSet | None", *, num_classes: int | None = None
) -> int | None:
    """The number of the class that `--class` means.

    Args:
        given: a number, or the name of a class in `data`; names come first.
        data: the training images, if there are any.
        num_classes: of the model; None if its classes are those of `data`.

    Raises:
        ConfigError: a name, where the model's classes cannot be numbered as those of `data` are.
        DataError: `data` has no such class.
    """
    if given is None:
        return None
    names = () if data is None else data.class_names
    if given.isdecimal() and given not in names:  # the model may have more classes than the images
        return int(given)
    if data is None or not names:
        raise ConfigError(
            f"--class is {shown(given)}, but there are no training images with class names; give "
            "the number of the class."
        )
    from memaudit.data.subsets import class_number

    number = class_number(data, given)
    if num_classes not in (None, data.num_classes) and given in names:
        raise ConfigError(
            f"--class is {shown(given)}, which is number {number} of the {data.num_classes:,} "
            f"classes in {data.source}, but the model has {num_classes:,} classes: which of them "
            "it is is not known. Give its number."
        )
    return number


def pictures_options(command: Command) -> Command:
    """`--no-images` and `--blur`: what a page shows; `choose_pictures` says which."""
    none = click.option(
        "--no-images",
        is_flag=True,
        help="Leave training and generated images out of the page; numbers, charts and names stay.",
    )
    blurred = click.option(
        "--blur",
        is_flag=True,
        help="Show only the mean colors of at most 4 by 4 areas of each image.",
    )
    return none(blurred(command))


def choose_pictures(no_images: bool, blur: bool) -> Pictures:
    """What a page shows by `--no-images` and `--blur`, of which only one may be given."""
    if no_images and blur:
        raise ConfigError("--no-images and --blur both say what the page shows; give one.")
    return "none" if no_images else "blurred" if blur else "full"


def refuse_options(ctx: click.Context, names: Iterable[str], what: str) -> None:
    """Refuse options that apply only to something that is not given.

    Args:
        ctx: of the command.
        names: of their parameters.
        what: what they are for.
    """
    unset = (None, click.core.ParameterSource.DEFAULT)
    for name in names:
        if ctx.get_parameter_source(name) not in unset:
            raise ConfigError(f"{{{name}}} is for {what}. Leave it out.", field=name)


def choose_seeds(
    samples: int | None, seeds: tuple[int, ...] | None, *, default: int = 10_000
) -> tuple[int, ...]:
    """The seeds meant by `--samples` or `--seeds`, of which only one may be given."""
    if samples is not None and seeds is not None:
        raise ConfigError("--samples and --seeds both say which images to generate; give one.")
    if samples is not None and samples < 1:
        raise ConfigError(f"{samples} samples were asked for; at least 1 is needed.")
    if seeds is not None and len(set(seeds)) < len(seeds):
        raise ConfigError("--seeds repeats a seed, which gives the same image again; give it once.")
    return seeds if seeds is not None else tuple(range(default if samples is None else samples))


def choose_device(name: str) -> str:
    """The device that `--device` means.

    Raises:
        ConfigError: there is no such device, or it is not there.
    """
    from memaudit.ranks.joined import joined_place
    from memaudit.ranks.launch import take_own_gpu

    place = joined_place()
    if place is not None and name != "cpu":
        take_own_gpu(place.local_rank, needed=name == "cuda")
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() and _supports_gpu() else "cpu"
    if not DEVICES.fullmatch(name):
        raise ConfigError(f"--device {name} is not known; cpu, cuda, cuda:1, mps or xpu is needed.")
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name} was asked for, but torch sees no CUDA device here. Use --device "
            "cpu, or see what `memaudit doctor` says of the GPU and of this torch."
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name} was asked for, but torch sees only "
            f"{counted(torch.cuda.device_count(), 'GPU', 'GPUs')} here, counted from 0."
        )
    is_there = {"mps": torch.backends.mps, "xpu": torch.xpu}
    if kind in is_there and not is_there[kind].is_available():
        raise ConfigError(f"--device {name} was asked for, but torch sees none here.")
    return name


DEVICES = re.compile(r"cpu|mps|(cuda|xpu)(:[0-9]{1,3})?")


def _supports_gpu() -> bool:
    """Whether torch has code for the first GPU; says so if it has not."""
    import torch

    from memaudit.cli.console import remark
    from memaudit.models.devices import is_supported

    capability = torch.cuda.get_device_capability()
    supported = is_supported(capability, torch.cuda.get_arch_list())
    if not supported:
        remark(
            f"This PyTorch holds no code for {torch.cuda.get_device_name()} (capability "
            f"{capability[0]}.{capability[1]}); computing on the CPU.",
            "bold yellow",
        )
    return supported
