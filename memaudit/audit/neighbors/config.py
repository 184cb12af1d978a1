"""How a training set is to be searched; nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

Metric = Literal["cosine", "l2"]
PreprocessingName = Literal["unit", "signed", "imagenet", "sscd"]


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
        Path | None,
        Option(
            "Compare features of this TorchScript encoder instead of pixels; the search is then "
            "not exact. TorchScript runs code from the file: use one that you trust.",
            metavar="FILE",
        ),
    ] = None
    feature_metric: Annotated[
        Metric | None, Option("Distance between features.", default_text="cosine")
    ] = None
    preprocessing: Annotated[
        PreprocessingName | None,
        Option(
            "What the encoder is given: values in [0, 1], in [-1, 1], with ImageNet's mean and "
            "standard deviation, or everything as SSCD was published.",
            default_text="imagenet",
        ),
    ] = None
    encoder_size: Annotated[
        int | None,
        Option(
            "Resize images for the encoder so that the shorter edge has N pixels.",
            at_least=1,
            metavar="N",
            default_text="their own size; sscd: 288",
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
        for_encoder = (self.feature_metric, self.preprocessing, self.encoder_size)
        if self.features is None and for_encoder != (None, None, None):
            raise ConfigError(
                "{feature_metric}, {preprocessing} and {encoder_size} are for an encoder; name one "
                "with {features}.",
                field=("feature_metric", "preprocessing", "encoder_size", "features"),
            )
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

    @property
    def memory_limit(self) -> int | None:
        """Most bytes that the index of pixels may take."""
        return None if self.index_memory is None else int(self.index_memory * 1e9)
