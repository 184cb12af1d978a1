"""`memaudit sample`: images from a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import (
    SeedList,
    arch_option,
    batch_size_option,
    choose_device,
    choose_seeds,
    device_option,
    sampler_options,
)

if TYPE_CHECKING:
    from memaudit.models.generate import GeneratedBatch


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Training images, where SOURCE is the word optimum.",
)
@click.option("--samples", type=int, metavar="N", help="Seeds 0 to N-1.  [default: 64]")
@click.option("--seeds", type=SeedList(), help="One seed per image, such as 0-63 or 3,7,20-29.")
@sampler_options
@batch_size_option
@device_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Where the images go: a folder of PNG files, or one .npz, .zip or .png (a grid).",
)
def sample(
    source: Path,
    data_path: Path | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: int | None,
    batch_size: int,
    device: str,
    arch: str | None,
    out: Path,
    **sampler: Any,
) -> None:
    """Generate images from a checkpoint.

    SOURCE is a checkpoint, or the word optimum: the closed-form denoiser of the images in --data.
    Images are sampled with EDM's Heun sampler. An image depends on its seed alone: seed 17 is the
    same whatever the batch size.

    \b
    # a look at 64 images, as one picture
    memaudit sample model.safetensors --seeds 0-63 --out grid.png
    # 10,000 images as NNNNNN.png in a folder
    memaudit sample model.safetensors --samples 10000 --out ./generated
    """
    from memaudit.audit.source import OPTIMUM, optimum_of
    from memaudit.cli.console import err, progress_bars
    from memaudit.data.sources import open_images
    from memaudit.data.writers import NamedImage, check_writable, write_images
    from memaudit.errors import ConfigError
    from memaudit.models.checkpoints import open_checkpoint
    from memaudit.models.generate import SamplerConfig, generate_images

    config = SamplerConfig(**sampler)
    chosen = choose_seeds(64 if samples is None and seeds is None else samples, seeds)
    check_writable(out)
    where = choose_device(device)
    if str(source) == OPTIMUM and data_path is None:
        raise ConfigError("The optimum is that of training images; name them with --data.")
    if str(source) != OPTIMUM and data_path is not None:
        raise ConfigError("--data belongs to the SOURCE optimum; a checkpoint needs none.")
    with progress_bars() as progress:
        if data_path is None:
            checkpoint = open_checkpoint(source, device=where, arch=arch)
        else:
            data = open_images(data_path, progress=progress)
            checkpoint = optimum_of(data, conditional=class_index is not None, device=where)
        batches = generate_images(
            checkpoint.network,
            chosen,
            config=config,
            class_index=class_index,
            batch_size=batch_size,
            device=where,
            progress=progress,
        )
        write_images(
            out,
            (
                NamedImage(f"{int(seed):06d}", pixels.numpy(), label)
                for batch in batches
                for seed, pixels, label in zip(
                    batch.seeds, batch.images, _labels(batch), strict=True
                )
            ),
        )
    err.print(f"{len(chosen):,} images: {out}", highlight=False, soft_wrap=True)


def _labels(batch: "GeneratedBatch") -> list[int] | list[None]:
    if batch.class_index is None:
        return [None] * len(batch.seeds)
    return [int(label) for label in batch.class_index]
