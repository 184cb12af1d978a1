"""How similar generated images are to training images by an encoder, against held-out images.

The cut is the 99th percentile of the held-out images' similarity to their nearest training image.
Published cuts stand beside it: they were set on other images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, Table, measures, share_row
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.published_encoders import published_cuts
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.intervals import (
    Estimate,
    Proportion,
    clopper_pearson,
    describe,
    level_text,
)
from memaudit.audit.statistics.quantiles import sample_quantile
from memaudit.wording import percent

QUANTILE = 0.99


@dataclass(frozen=True)
class CutCounts:
    """Images that are at least as similar to a training image as a published cut asks for."""

    similarity: float
    """Cosine of the features at which others begin to speak of copies."""
    source: str
    """Where the cut comes from."""
    generated: Proportion
    holdout: Proportion


@dataclass(frozen=True)
class FeatureSimilarity:
    """Similarities to the nearest training image: the cosine of an encoder's features."""

    encoder: str
    """What it is called."""
    cut: Estimate
    """The 99th percentile of the held-out images; the interval is that of order statistics."""
    num_holdout: int
    """Held-out images that the cut is of: those near a training image in pixels are left out."""
    median: float
    """Median similarity of the generated images."""
    median_holdout: float
    above: Proportion
    """Generated images above the cut."""
    above_low: int
    """How many are above the lower end of the cut's interval."""
    above_high: int
    """How many are above its upper end."""
    published: tuple[CutCounts, ...]
    """Empty for an encoder without published cuts."""


def compare_similarities(
    generated: np.ndarray,
    holdout: np.ndarray,
    index: FeatureIndex,
    confidence: float = 0.95,
) -> FeatureSimilarity:
    """Count generated images that are more similar to a training image than held-out ones are.

    Args:
        generated: [M], squared cosine distance of each to its nearest training image, 2 − 2·cos.
        holdout: [H], the same of held-out images, H ≥ 1.
        index: what was searched.
        confidence: of the intervals.
    """
    cosine, control = 1 - generated / 2, 1 - holdout / 2
    cut = sample_quantile(control, QUANTILE, confidence, largest=1.0)

    def share(hits: np.ndarray) -> Proportion:
        return clopper_pearson(int(hits.sum()), len(hits), confidence)

    return FeatureSimilarity(
        encoder=index.encoder.name,
        cut=cut,
        num_holdout=len(control),
        median=float(np.median(cosine)),
        median_holdout=float(np.median(control)),
        above=share(cosine > cut.value),
        above_low=int((cosine > cut.low).sum()),
        above_high=int((cosine > cut.high).sum()),
        published=tuple(
            CutCounts(
                known.similarity,
                known.source,
                share(cosine >= known.similarity),
                share(control >= known.similarity),
            )
            for known in published_cuts(index.encoder)
        ),
    )


def _run(context: Context) -> FeatureSimilarity | None:
    images = context.given_images
    index = images.features
    assert index is not None
    holdout, rule = images.setting.given_holdout, images.setting.config.rule
    # Those that were searched before are not encoded again.
    generated = index.nearest(images.generated, 1).squared_distance[:, 0]
    S = images.setting.open_index().nearest(holdout.images, 1).squared_distance[:, 0]
    apart = S > largest_squared_distance(rule.duplicate_rms, holdout.image_shape)
    if not apart.any():
        return None
    return compare_similarities(
        generated,
        index.nearest(holdout.images[apart], 1).squared_distance[:, 0],
        index,
        rule.confidence,
    )


def _section(result: FeatureSimilarity, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"Similarity is the cosine of the features of {result.encoder}. Of "
        f"{result.num_holdout:,} held-out images, which the model never saw, one in a hundred is "
        "more similar to a training image than the cut. Generated images above it need not be "
        "copies: plain images are similar to many. Look at the pairs."
    )
    total = result.above.total
    yield measures(
        result.above.confidence,
        Row(
            "Cut: 99th percentile of the held-out images",
            (f"{result.cut.value:.3f}", _ends(result.cut)),
            note="" if result.num_holdout >= 300 else "few held-out images: the cut is uncertain",
        ),
        share_row(
            "Generated images above the cut",
            result.above,
            note=f"{percent(1 - QUANTILE)} % if they were like held-out images; with the cut at "
            f"the ends of its interval, {result.above_high:,} to {result.above_low:,} of {total:,}",
            is_headline=True,
        ),
        Row(
            "Median similarity of generated images",
            (f"{result.median:.3f}", "–"),
            note=f"of held-out images {result.median_holdout:.3f}",
        ),
    )
    if result.published:
        yield Table(
            ("Published cut", "Generated images", "Held-out images"),
            tuple(
                Row(
                    f"{known.similarity:g}",
                    (describe(known.generated), describe(known.holdout)),
                    note=known.source,
                )
                for known in result.published
            ),
            title="Images that are at least as similar as published cuts ask for",
        )
    yield Paragraph(
        "Numbers do not transfer: a cut belongs to the encoder, to what it is given and to the "
        "images on which it was set. How many held-out images pass a published cut says how far it "
        "can be trusted here.",
        is_small=True,
    )


def _ends(cut: Estimate) -> str:
    return f"{cut.low:.3f} to {cut.high:.3f}"


def _lines(result: FeatureSimilarity) -> Iterator[str]:
    level = level_text(result.above.confidence)
    yield (
        f"Features of {result.encoder}: {describe(result.above)} of the generated images are more "
        f"similar to a training image than {result.cut.value:.3f}, the 99th percentile of "
        f"{result.num_holdout:,} held-out images ({level} interval {_ends(result.cut)})."
    )
    if result.published:
        counts = "; ".join(
            f"at {known.similarity:g}, {known.generated.count:,} of {known.generated.total:,} "
            f"generated and {known.holdout.count:,} of {known.holdout.total:,} held-out images"
            for known in result.published
        )
        yield f"Published cuts, which do not transfer to other images: {counts}."


DIAGNOSTIC = Diagnostic(
    title="Similarity by features",
    requires=frozenset({"images", "features", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
)
