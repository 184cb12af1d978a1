"""The index that a configuration asks for, and the plain pixel index beside it."""

from functools import partial

import numpy as np
import torch

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.feature_cache import kept_features
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.preprocessing import Preprocessing
from memaudit.audit.neighbors.published_encoders import open_encoder
from memaudit.audit.neighbors.results import (
    DistinctNeighbors,
    EncoderFacts,
    PreprocessingFacts,
    SearchFacts,
    SearchStatistics,
)
from memaudit.audit.neighbors.rules.features import FeaturesRule
from memaudit.audit.neighbors.rules.registry import PIXELS, RULES
from memaudit.audit.neighbors.rules.rule import RuleSearch
from memaudit.audit.neighbors.sharded_index import ShardedIndex
from memaudit.data.images import ImageSet
from memaudit.progress import Progress, silent
from memaudit.ranks.joined import current_leader


def build_index(
    data: ImageSet,
    config: IndexConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    keep_features: bool = False,
    progress: Progress = silent,
) -> ImageSearch:
    """Build the index of a training set.

    It is built for every scan and never kept: whoever could change a kept one could hide copies,
    and to check it takes about as long as to build it (docs/neighbors.md, section 8). Only features
    may be kept, of which a random part is encoded again.

    Args:
        data: training images, N ≥ 1; may be memory-mapped. Groups of them that count are told
            apart.
        config: what to compare; None means pixels, as they are.
        device: "cpu", or "cuda" to search and encode on a GPU.
        keep_features: whether features are taken from the cache, and kept there.
        progress: told how many images are indexed.

    Raises:
        DataError: there are no images, they are too large, or they do not suit the encoder.
        ConfigError: there is no GPU, or the index takes more memory than the limit.
        CheckpointError: the encoder cannot be opened, or fails.
    """
    config = IndexConfig() if config is None else config
    if config.compares_features:
        index: ImageSearch = build_feature_index(
            data, config, device=device, keep_features=keep_features, progress=progress
        )
    else:
        index = _pixel_search(data, config, device=device, progress=progress)
    index.rules = open_rules(index, config, progress=progress)
    return index


def open_rules(
    index: ImageSearch, config: IndexConfig, *, progress: Progress = silent
) -> tuple[RuleSearch, ...]:
    """Prepare the further rules that a configuration names.

    Args:
        index: of the training images, by pixels.
        config: names the rules.
        progress: told how many images are indexed.

    Raises:
        ConfigError: the images are too small for a rule.
    """
    opened = (rule.open(index, config, progress) for rule in RULES if rule.name in config.match)
    return tuple(rule for rule in opened if rule is not None)


def _pixel_search(
    data: ImageSet, config: IndexConfig, *, device: str | torch.device, progress: Progress
) -> ImageSearch:
    leader = current_leader()
    if config.shard_index and leader is not None:
        return ShardedIndex(
            data.images,
            leader,
            device=device,
            flips=config.flips,
            groups=data.group_numbers,
            memory_limit=config.memory_limit,
            progress=progress,
        )
    return NeighborIndex(
        data.images,
        device=device,
        flips=config.flips,
        groups=data.group_numbers,
        memory_limit=config.memory_limit,
        progress=progress,
    )


def build_feature_index(
    data: ImageSet,
    config: IndexConfig,
    *,
    device: str | torch.device = "cpu",
    keep_features: bool = False,
    progress: Progress = silent,
) -> FeatureIndex:
    """Build the index of the features that a configuration names.

    Args:
        data: training images, N ≥ 1; may be memory-mapped.
        config: names the encoder.
        device: where to encode and search.
        keep_features: whether features are taken from the cache, and kept there.
        progress: told how many images are encoded.

    Raises:
        DataError: the images do not suit the encoder.
        CheckpointError: the encoder cannot be opened, or fails.
    """
    assert config.features is not None
    is_file = config.encoder_weights is None
    encoder = open_encoder(
        config.features,
        config.encoder_weights,
        preprocessing=(config.preprocessing or "imagenet") if is_file else None,
        resize=config.encoder_size,
        device=device,
    )
    encode_all = partial(kept_features, data, encoder, progress=progress)
    return FeatureIndex(
        data.images,
        encoder,
        metric=config.feature_metric or "cosine",
        flips=config.flips,
        groups=data.group_numbers,
        encode_all=encode_all if keep_features else None,
        progress=progress,
    )


def pixel_index(
    index: ImageSearch,
    data: ImageSet,
    *,
    progress: Progress = silent,
) -> NeighborIndex:
    """The index of the training images' pixels as they are, where another one may be in use.

    An index that also searches mirror images holds the same projections, and nothing is built. One
    of features holds none: then the pixel index is built.

    Args:
        index: of `data`.
        data: training images.
        progress: told how many images are indexed.
    """
    if isinstance(index, NeighborIndex):
        return index.without_flips()
    return NeighborIndex(
        data.images, device=index.device, groups=data.group_numbers, progress=progress
    )


def similar_index(
    index: ImageSearch,
    images: np.ndarray,
    *,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> ImageSearch:
    """The same search among other images: pixels or features, mirrored or not.

    Args:
        index: the search to imitate.
        images: uint8 [N, C, H, W], N ≥ 1; each is a group of its own.
        memory_limit: most bytes that an index of pixels may take.
        progress: told how many images are indexed or encoded.
    """
    if isinstance(index, FeatureIndex):
        return FeatureIndex(
            images, index.encoder, metric=index.metric, flips=index.flips, progress=progress
        )
    return NeighborIndex(
        images,
        device=index.device,
        flips=index.flips,
        memory_limit=memory_limit,
        progress=progress,
    )


def describe_search(index: ImageSearch, found: DistinctNeighbors) -> SearchFacts:
    """What a report says of a search: the index, and how the searches for `found` went."""
    statistics = found.statistics or SearchStatistics(index.backend)
    encoder = None
    search = next((rule.search for rule in index.rules if isinstance(rule, FeaturesRule)), index)
    if isinstance(search, FeatureIndex):
        used = search.encoder
        encoder = EncoderFacts(
            name=used.name,
            path=used.path,
            sha256=used.sha256,
            is_program=used.is_program,
            metric=search.metric,
            preprocessing=None if used.preprocessing is None else _facts_of(used.preprocessing),
        )
    return SearchFacts(
        encoder,
        index.flips,
        match=(PIXELS, *(rule.name for rule in index.rules)) if index.rules else (),
        num_bytes=index.num_bytes + sum(rule.num_bytes for rule in index.rules),
        statistics=statistics,
    )


def _facts_of(preprocessing: Preprocessing) -> PreprocessingFacts:
    return PreprocessingFacts(
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize=preprocessing.resize,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
    )
