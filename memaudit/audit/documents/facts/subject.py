"""What was audited: the model, its training images, the persons concerned."""

from collections.abc import Iterator
from pathlib import Path

from memaudit.audit.documents.facts.fact import PROVENANCE, Fact
from memaudit.audit.report.schema import Report
from memaudit.wording import plural, short


def model(report: Report) -> Iterator[Fact]:
    """What was audited, and who is to say what it is for."""
    source = report.source
    name = Path(source.path).name or source.path
    if source.model is None:
        yield Fact(
            "Generated images",
            f"{report.ratios.copies.total:,} images of {short(name)}; the model itself was not "
            "given",
            "source.path",
            PROVENANCE,
        )
        yield Fact("SHA-256 of their pixels", source.sha256, "source.sha256", PROVENANCE)
        yield Fact("Model that made them", None)
        return
    kind = source.model.config.get("class_name")
    network = f", network {short(str(kind))}" if kind else ""
    yield Fact(
        "Model",
        f"{short(name)} ({source.model.format}{network})",
        "source.model.format",
        PROVENANCE,
    )
    yield Fact("SHA-256", source.sha256, "source.sha256", PROVENANCE)
    yield Fact("Intended use, version, provider", None)


def data(report: Report) -> Iterator[Fact]:
    """The training images that were searched, and the held-out ones."""
    data = report.data
    channels, height, width = data.image_shape
    part = ""
    if data.indices is not None:
        part = ", a selection of their source (data.indices)"
    elif data.split is not None:
        part = f", split {short(data.split)}"
    yield Fact(
        "Training images searched",
        f"{data.num_images:,} images of {height} × {width} pixels, {channels} "
        f"{'channel' if channels == 1 else 'channels'}{part}",
        "data.num_images",
        PROVENANCE,
    )
    yield Fact("SHA-256 of their pixels", data.fingerprint, "data.fingerprint", PROVENANCE)
    yield Fact(
        "Training data confirmed", report.conclusion.confirmed, "conclusion.confirmed", "limits"
    )
    held = report.controls.num_holdout
    yield Fact(
        "Held-out images",
        f"{held:,}, which the model is said not to have seen" if held else "none given",
        "controls.num_holdout",
        "controls",
    )
    yield Fact("Origin of the data, and personal data in it", None)


def persons(report: Report) -> Iterator[Fact]:
    """Whom the images are of, as far as the report counts groups."""
    data, found = report.data, report.diagnostics.groups
    if data.num_groups is None or found is None:
        yield Fact(
            "Persons concerned",
            "Which images belong to which person was not given: images are counted, not persons.",
            "data.num_groups",
            PROVENANCE,
        )
    else:
        kinds = plural(found.kind)
        explained = report.conclusion.is_explained_by_floor
        yield Fact(
            f"Groups ({short(kinds)})",
            f"{data.num_groups:,} in the training images; images of {found.num_copied:,} of them "
            + ("are the nearest to what was counted" if explained else "were copied"),
            "diagnostics.groups.num_copied",
            "groups-that-leak",
        )
    yield Fact("Categories of persons, number", None)


def indications(report: Report) -> Iterator[Fact]:
    """What makes memorization more likely: repetition, size, near-duplicates."""
    model, num_images = report.source.model, report.data.num_images
    seen = None if model is None else model.images_seen
    if seen is None:
        yield Fact("Images seen in training", "not stated by the source", "", "")
    else:
        repeats = ""
        if model is not None and model.trained_on_data:
            times = seen / num_images
            repeats = f": each training image about {times:,.{1 if times < 10 else 0}f} times"
        yield Fact(
            "Images seen in training",
            f"{seen:,}{repeats}, as the checkpoint states",
            "source.model.provenance.images_seen",
            PROVENANCE,
        )
    values = num_images * int(report.space.num_values or 0)
    if report.space.exact and values:
        yield Fact(
            "Size of the training data",
            f"{values:,} pixel values ({num_images:,} images of {report.space.num_values:,})",
            "space.num_values",
            PROVENANCE,
        )
    yield Fact("Parameters of the model", None)
    alone = report.controls.leave_one_out
    if alone is not None:
        yield Fact(
            "Near-duplicates in the training data",
            f"{alone.num_near:,} of {alone.copies.total:,} training images lie within "
            f"{report.duplicate_rms:g} gray levels of another",
            "controls.leave_one_out.num_near",
            "controls",
        )
