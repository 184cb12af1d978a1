"""How a training set is to be searched; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeGuard

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

Metric = Literal["cosine", "l2"]
PreprocessingName = Literal["unit", "signed", "imagenet", "sscd", "sscd-224"]
PublishedName = Literal["sscd", "sscd-224", "dinov2", "clip", "openclip"]
_SSCD = "sscd_disc_mixup.torchvision.pt of github.com/facebookresearch/sscd-copy-detection"
_CLIP = "model.safetensors of a CLIPModel on huggingface.co, or a file of open_clip or timm"
WEIGHTS: Mapping[PublishedName, str] = {
    "sscd": _SSCD,
    "sscd-224": _SSCD,
    "dinov2": "dinov2_vitb14_pretrain.pth or another of github.com/facebookresearch/dinov2",
    "clip": f"OpenAI's weights, {_CLIP}",
    "openclip": f"weights that open_clip trained with GELU, {_CLIP}",
}
"""Files that published encoders need, which are not part of memaudit."""


def is_published(name: str) -> TypeGuard[PublishedName]:
    """Whether a name is that of a published encoder, and not a file's."""
    return name in WEIGHTS


@dataclass(frozen=True)
class IndexConfig:
    """Whether pixels or an encoder's features are compared, and how.

    Raises:
        ConfigError: a value is out of its range, or two options contradict each other.
    """

    flips: Annotated[bool, Option("Also count copies of mirrored training images as copies.")] = (
        False
    )
    features: Annotated[
        str | None,
        Option(
            "Compare features of this encoder instead of pixels; the search is then not exact. "
            f"NAME is one of {', '.join(WEIGHTS)}; FILE is TorchScript, which runs code from the "
            "file: use one that you trust.",
            metavar="NAME|FILE",
        ),
    ] = None
    encoder_weights: Annotated[
        Path | None,
        Option(
            "The weights of an encoder that is named. They are read without running anything.",
            metavar="FILE",
        ),
    ] = None
    feature_metric: Annotated[
        Metric | None, Option("Distance between features.", default_text="cosine")
    ] = None
    preprocessing: Annotated[
        PreprocessingName | None,
        Option(
            "What an encoder in a file is given: values in [0, 1], in [-1, 1], with ImageNet's "
            "mean and standard deviation, as SSCD was published, or as it is used at 224 pixels.",
            default_text="imagenet",
        ),
    ] = None
    encoder_size: Annotated[
        int | None,
        Option(
            "Resize images for an encoder in a file so that the shorter edge has N pixels.",
            at_least=1,
            metavar="N",
            default_text="their own size; sscd: 288; sscd-224: 256",
        ),
    ] = None
    index_memory: Annotated[
        float | None,
        Option(
            "Most memory that the index of the training images may take.",
            above=0,
            metavar="GB",
            default_text="no limit",
        ),
    ] = None

    shard_index: Annotated[
        bool,
        Option(
            "Index a part of the training images on each rank, for sets that are too large for one "
            "machine or GPU."
        ),
    ] = False

    def __post_init__(self) -> None:
        check_options(self)
        self._check_encoder()
        if self.features is not None and self.shard_index:
            raise ConfigError(
                "{shard_index} shares out the index of pixels; leave it out with {features}.",
                field=("shard_index", "features"),
            )
        if self.features is not None and self.index_memory is not None:
            raise ConfigError(
                "{index_memory} limits the index of pixels; leave it out with {features}.",
                field=("index_memory", "features"),
            )

    def _check_encoder(self) -> None:
        own = (self.preprocessing, self.encoder_size)
        if self.features is None:
            if (self.feature_metric, self.encoder_weights, *own) != (None,) * 4:
                raise ConfigError(
                    "{feature_metric}, {encoder_weights}, {preprocessing} and {encoder_size} are "
                    "for an encoder; name one with {features}.",
                    field=(
                        *("feature_metric", "encoder_weights", "preprocessing", "encoder_size"),
                        "features",
                    ),
                )
        elif is_published(self.features):
            if self.encoder_weights is None:
                raise ConfigError(
                    f"{{features}} names {self.features}, whose weights are not part of memaudit. "
                    f"Give their file with {{encoder_weights}}: {WEIGHTS[self.features]}.",
                    field=("features", "encoder_weights"),
                )
            if own != (None, None):
                raise ConfigError(
                    f"{{features}} names {self.features}, which has its own preprocessing; leave "
                    "out {preprocessing} and {encoder_size}.",
                    field=("features", "preprocessing", "encoder_size"),
                )
        elif self.encoder_weights is not None:
            raise ConfigError(
                "{encoder_weights} is for an encoder that {features} names: "
                f"{', '.join(WEIGHTS)}. {self.features} has its own weights.",
                field=("encoder_weights", "features"),
            )

    @property
    def identity(self) -> list[object]:
        """What is compared, as JSON values: scans that differ in it judge images differently."""
        return [
            self.flips,
            None if self.features is None else str(self.features),
            None if self.encoder_weights is None else str(self.encoder_weights),
            self.feature_metric,
            self.preprocessing,
            self.encoder_size,
        ]

    @property
    def memory_limit(self) -> int | None:
        """Most bytes that the index of pixels may take."""
        return None if self.index_memory is None else int(self.index_memory * 1e9)
