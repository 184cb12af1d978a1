"""Configurations of EDM's published networks, for weights that come without their own.

A preset is named data set, architecture, preconditioner, and `cond` where it has classes:
`cifar10-ddpmpp-edm-cond`. The published file's name works as well; there "vp" and "ve" are the
architecture (DDPM++, NCSN++), not the preconditioner. Karras et al., arXiv:2206.00364, Table 7;
https://github.com/NVlabs/edm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DDPMPP = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    "model_channels": 128,
}
NCSNPP = {
    "model_type": "SongUNet",
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "decoder_type": "standard",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
    "model_channels": 128,
}
ADM = {"model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4]}
CIFAR10 = {"img_resolution": 32, "img_channels": 3, "dropout": 0.13}
FFHQ = {"img_resolution": 64, "img_channels": 3, "label_dim": 0, "dropout": 0.05}
AFHQV2 = {"img_resolution": 64, "img_channels": 3, "label_dim": 0, "dropout": 0.25}
IMAGENET = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "dropout": 0.10}


@dataclass(frozen=True)
class Preset:
    """A published network."""

    name: str
    config: Mapping[str, Any]
    """class_name and the constructor's keywords."""
    file: str | None = None
    """Stem of the published file's name, if that is unique."""


def _names(preset: Preset) -> tuple[str, ...]:
    return (preset.name,) if preset.file is None else (preset.name, preset.file)


def _published() -> Iterator[Preset]:
    # EDM's own networks are trained with augmentation and have one level fewer than the baselines,
    # which are Song's (configuration A).
    edm = {"class_name": "EDMPrecond", "augment_dim": 9}
    for arch, short, network, baseline in (
        ("ddpmpp", "vp", DDPMPP, {"class_name": "VPPrecond"}),
        ("ncsnpp", "ve", NCSNPP, {"class_name": "VEPrecond"}),
    ):
        for suffix, kind, label_dim in (("", "uncond", 0), ("-cond", "cond", 10)):
            data = {**CIFAR10, "label_dim": label_dim}
            yield Preset(
                f"cifar10-{arch}-edm{suffix}",
                {**edm, **network, **data, "channel_mult": [2, 2, 2]},
                file=f"edm-cifar10-32x32-{kind}-{short}",
            )
            yield Preset(
                f"cifar10-{arch}-{short}{suffix}",
                {**baseline, **network, **data, "channel_mult": [1, 2, 2, 2]},
                file=f"baseline-cifar10-32x32-{kind}-{short}",
            )
        for name, data in (("ffhq", FFHQ), ("afhqv2", AFHQV2)):
            yield Preset(
                f"{name}-{arch}-edm",
                {**edm, **network, **data, "channel_mult": [1, 2, 2, 2]},
                file=f"edm-{name}-64x64-uncond-{short}",
            )
            yield Preset(
                f"{name}-{arch}-{short}",
                {**baseline, **network, **data, "channel_mult": [1, 1, 2, 2, 2]},
                file=f"baseline-{name}-64x64-uncond-{short}",
            )
    for precond, file, class_name in (
        ("edm", "edm-imagenet-64x64-cond-adm", "EDMPrecond"),
        ("iddpm", "baseline-imagenet-64x64-cond-adm", "iDDPMPrecond"),
    ):
        config = {"class_name": class_name, **ADM, **IMAGENET, "use_fp16": True}
        yield Preset(f"imagenet-adm-{precond}", config, file=file)


PRESETS: tuple[Preset, ...] = tuple(_published())
"""EDM's published networks."""

PRESETS_BY_NAME: Mapping[str, Preset] = {
    name: preset for preset in PRESETS for name in _names(preset)
}
"""Presets by their names and by those of their published files."""
