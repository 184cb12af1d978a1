"""Does a report hide a choice? Its choices are listed again from its settings."""

import numpy as np

from memaudit.audit.choices import choices_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.report.schema import Report
from memaudit.audit.verification.check import Check, check
from memaudit.data.images import ImageSet
from memaudit.wording import short

UNKNOWN = ("seeds were chosen", "only a part of the generated images was judged")
"""Beginnings of choices that a report alone does not show: which seeds a gate did not come to, and
how many images were given."""


def check_choices(report: Report, config: ScanConfig) -> Check:
    """Compare the choices stated with those that follow from what else is stated.

    Args:
        report: may be hostile.
        config: the report's settings.
    """
    total = report.data.num_images
    data = ImageSet(
        np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (total, 1, 1, 1)),
        range(total),  # type: ignore[arg-type]  # names do not matter
        source=report.data.path,
        preparation=report.data.preparation,
        indices=None if report.data.indices is None else np.zeros(1, np.int64),
        class_names=report.data.class_names,
        split=report.data.split,
        other_splits=report.data.other_splits,
        labels_from=report.data.labels_from,
        groups_from=report.data.groups_from,
        group_kind=report.data.group_kind,
    )
    given = None if report.sampling is not None else ImageSet(data.images, data.names)
    confirmation = None if report.sampling is None else report.sampling.confirmation
    found = choices_of(config, report.source, data, given=given, confirmation=confirmation)
    stated = report.conclusion.choices
    hidden = [each for each in found if each not in stated and not _is_told(each, stated)]
    invented = [each for each in stated if each not in found and not each.startswith(UNKNOWN)]
    wrong = [f"{short(each)} is not among them" for each in hidden]
    wrong += [f"{short(each)} does not follow from the settings" for each in invented]
    return check("choices", not wrong, "; ".join(wrong))


def _is_told(choice: str, stated: tuple[str, ...]) -> bool:
    """Whether a choice that depends on seeds which were not sampled is stated in other words."""
    return any(
        choice.startswith(words) and any(each.startswith(words) for each in stated)
        for words in UNKNOWN
    )
