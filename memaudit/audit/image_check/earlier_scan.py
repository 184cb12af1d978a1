"""What a scan of the same model found about the images, from its report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memaudit.audit.image_check.result import EarlierCopies
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.models.checkpoints import Checkpoint

LISTED_KEYS = 1000
"""Copies whose seeds or names are listed for an image."""


@dataclass(frozen=True)
class EarlierScan:
    """Which training images the generated images of a scan copy."""

    path: str
    """Folder of the report."""
    source_sha256: str | None
    """SHA-256 of the checkpoint or of the generated images' pixels."""
    data_fingerprint: str
    """SHA-256 of the training images' pixels."""
    num_images: int
    """Generated images that it judged."""
    keys: Mapping[int, tuple[int | str, ...]]
    """Seeds or names of the copies of each training image that leaked, by its position."""

    def copies(self, positions: np.ndarray) -> EarlierCopies:
        """Copies of any of some training images, int64."""
        keys = [key for i in positions.tolist() for key in self.keys.get(i, ())]
        return EarlierCopies(len(keys), self.num_images, tuple(keys[:LISTED_KEYS]))

    def check_same(self, source: Checkpoint | ImageSet, data: ImageSet | None) -> None:
        """Refuse a report about another model, or about other training images.

        Raises:
            DataError: it is one, or no training images are given.
        """
        sha256 = source.fingerprint if isinstance(source, ImageSet) else source.sha256
        if data is None:
            raise DataError(
                f"The report {self.path} names copies of training images; give these with "
                "{data}, or leave {report} out.",
                field=("data", "report"),
            )
        different = []
        if self.source_sha256 is None or self.source_sha256 != sha256:
            different.append("another model or other generated images")
        if self.data_fingerprint != data.fingerprint:
            different.append(f"other training images than {data.source}")
        if different:
            raise DataError(
                f"The report {self.path} is about {' and '.join(different)}. Name the report of a "
                "scan of these, or leave {report} out.",
                field="report",
            )
