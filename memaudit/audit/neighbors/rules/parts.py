"""What rules share that compare one window of whole images."""

from collections.abc import Callable, Iterator

import numpy as np

from memaudit.audit.neighbors.rules.finder import CopyFinder, Pairs
from memaudit.audit.neighbors.rules.rule import Criteria, Finds, Pool, RuleSearch


class WindowRule(RuleSearch):
    """A rule with one window: a copy by it is a copy by the rule."""

    def __init__(
        self,
        name: str,
        finder: CopyFinder,
        *,
        describe: Callable[[np.ndarray, Pairs], tuple[str, ...]],
        pools: Callable[[np.ndarray], Iterator[Pool]],
    ) -> None:
        """Say what the rule is.

        Args:
            name: of the rule.
            finder: of its window.
            describe: (images of the pairs, pairs) → where each was found, in words.
            pools: what the label test searches.
        """
        self.name = name
        self.num_bytes = finder.num_bytes
        self._finder, self._describe, self._pools = finder, describe, pools

    def judge(
        self,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        *,
        left_out: np.ndarray | None = None,
    ) -> Finds:
        finder = self._finder
        found = finder.candidates(images, apart, criteria, left_out)
        found = found[finder.are_copies(images, found, apart, criteria, left_out)]
        index = np.full(len(images), -1, dtype=np.int64)
        S, num_values = np.full_like(index, -1), np.zeros_like(index)
        index[found.query], S[found.query] = found.index, found.squared_distance
        num_values[found.query] = finder.num_values
        where = [""] * len(images)
        for row, text in zip(
            found.query.tolist(), self._describe(images[found.query], found), strict=True
        ):
            where[row] = text
        return Finds(self.name, index, S, num_values, tuple(where))

    def pools(self, images: np.ndarray) -> Iterator[Pool]:
        return self._pools(images)
