"""What was chosen in a scan: everything that bears on the verdict and is not the default.

A reader who was not there must be able to tell a plain audit from one that was set up to pass.
"""

from memaudit.audit.augmentation import augmentation_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.source import Source
from memaudit.audit.unchosen_seeds import are_consecutive
from memaudit.data.images import ImageSet
from memaudit.data.layout import ALL_SPLITS
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields
from memaudit.wording import percent, ranges, short


def choices_of(
    config: ScanConfig,
    source: Source,
    data: ImageSet,
    *,
    given: ImageSet | None = None,
    confirmation: Confirmation | None = None,
) -> tuple[str, ...]:
    """Everything that bears on the verdict and was not left at its default.

    Args:
        config: of the scan.
        source: what was audited.
        data: the training images.
        given: the images that were judged, where they were given.
        confirmation: which images were judged in a faster number format, where some may have been.
    """
    found = [*_of_rule(config), *_of_search(config, source), *_of_data(source, data)]
    if given is None:
        found += _of_sampling(config, data, confirmation)
    elif given.indices is not None:
        found.append(f"only a part of the generated images was judged: {len(given):,}")
    return tuple(found)


def _of_rule(config: ScanConfig) -> list[str]:
    default = Rule()
    found = []
    if config.rule.threshold != default.threshold:
        found.append(f"threshold {config.rule.threshold} instead of {default.threshold}")
    if config.rule.duplicate_rms != default.duplicate_rms:
        radius, usual = config.rule.duplicate_rms, default.duplicate_rms
        found.append(f"duplicate radius {radius:g} instead of {usual:g} gray levels")
    if config.rule.confidence != default.confidence:
        found.append(f"confidence {config.rule.confidence:g} instead of {default.confidence:g}")
    if config.fail_above_groups is not None:
        share = percent(config.fail_above_groups)
        found.append(f"also fails above {share} % of the groups, on a fixed number of images")
    if config.fail_on:
        found.append(f"also fails on {_listed(config.fail_on)}")
    if config.without:
        found.append(f"without {_listed(config.without)}")
    return found


def _of_search(config: ScanConfig, source: Source) -> list[str]:
    found = []
    if config.index.compares_features:
        found.append(f"features of {config.index.features} compared, not pixels")
    if config.index.match:
        found.append(f"copies by {_listed(config.index.match)} counted")
    if config.index.flips:
        model = source.model
        why = ""
        if model is not None and (said := augmentation_of(model.config, model.provenance)).mirrored:
            was = "may have been" if said.is_assumed else "was"
            why = f", since the model {was} trained on them"
        found.append(f"mirror images searched as well{why}")
    return found


def _of_data(source: Source, data: ImageSet) -> list[str]:
    found = []
    if not data.preparation.is_plain:
        found.append(f"images prepared: {data.preparation}")
    if data.split is not None and data.other_splits:
        others = short(_listed(data.other_splits), 60)
        found.append(f"training images of the split {short(data.split, 60)}, not of {others}")
    if data.split == ALL_SPLITS:
        found.append("training images of all splits together")
    if data.labels_from is not None:
        found.append(f"labels from: {short(data.labels_from, 60)}")
    if data.groups_from is not None:
        found.append(
            f"groups from: {short(data.groups_from, 60)}; second neighbors of another "
            f"{short(data.group_kind, 60)}"
        )
    if data.indices is not None:
        says = source.model is not None and source.model.trained_on_data
        whose = ", those that the checkpoint says it was trained on" if says else ""
        found.append(f"only {len(data):,} of the images in {data.source} were searched{whose}")
    return found


def _of_sampling(
    config: ScanConfig, data: ImageSet, confirmation: Confirmation | None
) -> list[str]:
    found = []
    if not are_consecutive(config.seeds):
        found.append(f"seeds were chosen: {short(ranges(config.seeds), 60)}")
    elif config.nonce is not None:
        found.append(f"seeds drawn from the nonce '{config.nonce}'")
    elif config.seeds[0]:
        found.append(f"seeds begin at {config.seeds[0]:,}")
    if config.class_index is not None:
        names = data.class_names
        name = names[config.class_index] if config.class_index < len(names) else None
        called = "" if name in (None, str(config.class_index)) else f" ({short(name, 60)})"
        found.append(f"one class only: {config.class_index}{called}")
    if config.class_frequencies != ScanConfig.class_frequencies:
        found.append(f"class frequencies of the {config.class_frequencies}")
    usual = SamplerConfig()
    for name, field in config_fields(SamplerConfig).items():
        value = getattr(config.sampler, name)
        if value not in (getattr(usual, name), None):
            found.append(f"{field.flag.lstrip('-')} {value}")
    if confirmation is not None and confirmation.fast_seeds is not None:
        how = " by compiled kernels" if config.execution.compile == "on" else ""
        found.append(f"sampled in {confirmation.precision}{how}, confirmed in fp32")
    if config.screening is not None:
        found.append(config.screening.text)
    if config.min_samples < ScanConfig.min_samples:
        found.append(f"first look of the gate after {config.min_samples} images")
    return found


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(name.replace("_", "-") for name in names)
