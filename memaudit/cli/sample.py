"""`memaudit sample`: generate images from a checkpoint."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from memaudit.cli.options import (
    OPTIMUM,
    ImagesPath,
    SeedList,
    SourcePath,
    arch_option,
    choose_class,
    choose_device,
    choose_seeds,
    config_options,
    device_option,
    devices_option,
    from_options,
    sampler_options,
    selection_options,
)
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.errors import ConfigError
from memaudit.models.execution import Execution
from memaudit.options import config_fields
from memaudit.ranks.joined import current_worker
from memaudit.wording import counted

if TYPE_CHECKING:
    from memaudit.data.writers import NamedImage
    from memaudit.models.generate import GeneratedBatch


@click.command()
@click.argument("source", type=SourcePath(), metavar="SOURCE")
@click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    metavar="PATH",
    help="Training images, if SOURCE is the word optimum.",
)
@selection_options
@config_options(Preparation)
@click.option("--samples", type=int, metavar="N", help="Seeds 0 to N-1.  [default: 64]")
@click.option("--seeds", type=SeedList(), help="One seed per image, such as 0-63 or 3,7,20-29.")
@sampler_options
@config_options(Execution, "batch_size", "precision")
@device_option
@devices_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Where the images go: a folder of PNG files, or one .npz, .zip or .png (a grid), which is "
    "written at the end.",
)
@click.pass_context
def sample(
    ctx: click.Context,
    /,
    source: Path,
    data_path: Path | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: str | None,
    device: str,
    arch: str | None,
    out: Path,
    **options: Any,
) -> None:
    """Generate images from a checkpoint.

    SOURCE is a checkpoint, or the word optimum: the closed-form denoiser of the images in --data.
    Images are sampled with EDM's Heun sampler, or with --sampler own, the model's. An image depends
    only on its seed: seed 17 gives the same image at any batch size. To resume sampling into a
    folder after it was stopped or killed, give the same command again, or one with more seeds.

    \b
    # a look at 64 images, as one picture
    memaudit sample model.safetensors --seeds 0-63 --out grid.png
    # 10,000 images as NNNNNN.png in a folder
    memaudit sample model.safetensors --samples 10000 --out ./generated
    """
    from memaudit.data.resumable_folder import check_resumable, resumable_folder
    from memaudit.data.writers import check_writable, write_images

    chosen = choose_seeds(samples, seeds, default=64)
    is_optimum = str(source) == OPTIMUM
    if is_optimum and data_path is None:
        raise ConfigError("The optimum is computed from training images; name them with --data.")
    if not is_optimum:
        _refuse_data_options(ctx)
    is_folder = not out.suffix
    worker = current_worker()
    if worker is None:
        (check_resumable if is_folder else check_writable)(out)

    # Only now: torch takes seconds to import.
    from memaudit.audit.source import optimum_of
    from memaudit.cli.console import progress_bars, remark
    from memaudit.cli.forecast import say_sampling_time
    from memaudit.cli.long_work import finish
    from memaudit.data.subsets import open_selected
    from memaudit.models.checkpoints import open_checkpoint
    from memaudit.models.compile_choice import settle_compile
    from memaudit.models.denoiser import image_shape
    from memaudit.models.generate import generate_images, sampling_identity
    from memaudit.models.group_size import settled
    from memaudit.models.precision import resolve_precision
    from memaudit.models.sampler_config import SamplerConfig
    from memaudit.models.spread import MODEL, serve_images, spread_over_ranks

    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    config = from_options(SamplerConfig, options)
    where = choose_device(device)
    execution = from_options(Execution, options, device=where)
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bars())
        data = None
        if data_path is not None:
            data = open_selected(data_path, selection, preparation, progress=progress)
        chosen_class = choose_class(class_index, data)
        if data is None:
            checkpoint = open_checkpoint(source, device=where, arch=arch)
        else:
            conditional = chosen_class is not None or config.guidance != 1
            checkpoint = optimum_of(data, conditional=conditional, device=where)
        # Nothing confirms these images, so that a faster format is used only when asked for.
        if execution.precision == "auto":
            execution = replace(execution, precision="fp32")
        resolve_precision(checkpoint.network, execution)
        if worker is not None:
            ctx.exit(serve_images(worker, {MODEL: checkpoint}))
        for warning in checkpoint.warnings:
            remark(f"Warning: {warning}", "bold yellow")
        execution = settle_compile(
            settled(execution, checkpoint.network),
            checkpoint.network,
            num_images=len(chosen),
            sampler=config,
        )

        def images(seeds: Sequence[int]) -> "Iterator[NamedImage]":
            say_sampling_time(
                checkpoint.network,
                len(seeds),
                config,
                execution=execution,
                class_index=chosen_class,
                disk_bytes=len(seeds) * math.prod(image_shape(checkpoint.network)),
            )
            stack.enter_context(spread_over_ranks(MODEL, checkpoint))
            return _named(
                generate_images(
                    checkpoint.network,
                    seeds,
                    config=config,
                    class_index=chosen_class,
                    execution=execution,
                    progress=progress,
                )
            )

        if is_folder:
            by_name = {_name(seed): seed for seed in chosen}
            identity = sampling_identity(
                checkpoint, config, class_index=chosen_class, execution=execution
            )
            with resumable_folder(out, list(by_name), identity=identity) as folder:
                if num_kept := len(chosen) - len(folder.missing):
                    remark(f"{num_kept:,} of {len(chosen):,} images exist already.")
                for image in images([by_name[name] for name in folder.missing]):
                    folder.add(image)
        else:
            write_images(out, images(chosen))
    finish(f"{counted(len(chosen), 'image', 'images')}: {out}")


def _refuse_data_options(ctx: click.Context) -> None:
    """Refuse options that only the optimum could follow, rather than ignore them."""
    for param in ctx.command.params:
        if param.name not in ("data_path", *config_fields(Selection), *config_fields(Preparation)):
            continue
        if ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT:
            raise ConfigError(
                f"{param.opts[0]} belongs to the SOURCE optimum; a checkpoint does not need it."
            )


def _name(seed: int) -> str:
    return f"{seed:06d}"


def _named(batches: "Iterator[GeneratedBatch]") -> "Iterator[NamedImage]":
    from memaudit.data.writers import NamedImage

    for batch in batches:
        for seed, pixels, label in zip(batch.seeds, batch.images, _labels(batch), strict=True):
            yield NamedImage(_name(int(seed)), pixels, label)


def _labels(batch: "GeneratedBatch") -> list[int] | list[None]:
    if batch.class_index is None:
        return [None] * len(batch.seeds)
    return [int(label) for label in batch.class_index]
