"""How a training set is to be searched; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeGuard

from memaudit.audit.neighbors.rules.registry import PIXELS, RULES
from memaudit.errors import ConfigError
from memaudit.options import Option, check_options
from memaudit.wording import listed

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
    """What is compared, and how: pixels of whole images, features, or several things.

    Raises:
        ConfigError: a value is out of its range, or two options contradict each other.
    """

    match: Annotated[
        tuple[str, ...],
        Option(
            f"Count copies by these rules, as one list: {PIXELS} (whole images, always), "
            f"{', '.join(rule.name for rule in RULES)}; or all.",
            metavar="LIST",
            default_text=PIXELS,
        ),
    ] = ()
    """In the order of the table, `pixels` first; empty where nothing but the plain rule counts."""
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
        object.__setattr__(self, "match", self._in_order())
        check_options(self)
        self._check_encoder()
        if self.match and self.shard_index:
            raise ConfigError(
                "{shard_index} shares out the index of pixels; leave it out with {match}.",
                field=("shard_index", "match"),
            )
        if self.features is not None and self.shard_index:
            raise ConfigError(
                "{shard_index} shares out the index of pixels; leave it out with {features}.",
                field=("shard_index", "features"),
            )
        if self.compares_features and self.index_memory is not None:
            raise ConfigError(
                "{index_memory} limits the index of pixels; leave it out with {features}.",
                field=("index_memory", "features"),
            )

    def _in_order(self) -> tuple[str, ...]:
        """The rules that were named, each once."""
        given = (self.match,) if isinstance(self.match, str) else self.match
        names = [name.strip() for text in given for name in text.split(",")]
        known = [rule.name for rule in RULES]
        unknown = [name for name in names if name not in (PIXELS, "all", *known)]
        if unknown:
            raise ConfigError(
                f"{{match}} names {listed(unknown)}; choose among {PIXELS}, {', '.join(known)} and "
                "all.",
                field="match",
            )
        if self.features is not None and names and not {"all", "features"} & set(names):
            raise ConfigError(
                "{features} names an encoder, but {match} does not count features. Add features to "
                "it, or leave one of them out.",
                field=("features", "match"),
            )
        if self.features is None and "features" in names:
            raise ConfigError(
                "{match} names features; say of which encoder with {features}.",
                field=("match", "features"),
            )
        chosen = [
            rule.name
            for rule in RULES
            if rule.name in names or ("all" in names and (rule.in_all or self.features is not None))
        ]
        if self.flips and "flips" in chosen:  # mirror images are searched by every rule
            chosen.remove("flips")
        return (PIXELS, *chosen) if chosen else ()

    @property
    def compares_features(self) -> bool:
        """Whether features take the place of pixels."""
        return self.features is not None and not self.match

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
            list(self.match),
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
