"""The rows of matches.csv: one for each image that was judged, each about two training images."""

from collections.abc import Iterator

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.findings import Gate, first_decided
from memaudit.audit.memorization.matches import searched_radii
from memaudit.audit.memorization.screened import ScreenedRows, drawn_positions, screening_key
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.neighbors.rules.rule import Finds, Searched
from memaudit.audit.report.schema import Report
from memaudit.audit.report.tables import MatchTable
from memaudit.audit.unchosen_seeds import seeds_from_nonce
from memaudit.audit.verification.check import Check, check
from memaudit.wording import parse_ranges, ranges, shown

ROWS = "rows of matches.csv"
SCREENED = "rows of screening.csv"


def check_rows(table: MatchTable, report: Report) -> Iterator[Check]:
    """Compare the rows with what report.json says was judged.

    Args:
        table: matches.csv.
        report: may be hostile.
    """
    yield check("kind of source", *_kind(report, table))
    wrong = [*_wrong_keys(table, report), *_wrong_neighbors(table, report)]
    wrong += _wrong_groups(table, report)
    yield check(ROWS, not wrong, "; ".join(wrong))


def _kind(report: Report, table: MatchTable) -> tuple[bool, str]:
    is_model = report.source.kind == "checkpoint"
    by_seed = isinstance(table.keys[0], int)
    parts = {
        "source.model": report.source.model is not None,
        "sampling": report.sampling is not None,
        "seeds in matches.csv": by_seed,
    }
    wrong = [
        f"{name} {'is there' if there else 'is missing'}"
        for name, there in parts.items()
        if there != is_model
    ]
    if report.denoising is not None and not is_model:
        wrong.append("denoising is there")
    if report.denoising is None and is_model:
        wrong.append("denoising is missing")
    by_features = report.space.name == "features"
    has_encoder = by_features or "features" in report.search.match
    if has_encoder != (report.search.encoder is not None) or by_features == report.space.exact:
        wrong.append("space and encoder contradict each other")
    if report.threshold != float(report.threshold_fraction):
        wrong.append("threshold is not threshold_fraction")
    if report.sampling is not None and not by_seed:
        return False, f"{', '.join(wrong)}"
    return not wrong, f"the source is {report.source.kind}, but {', '.join(wrong)}"


def _wrong_keys(table: MatchTable, report: Report) -> Iterator[str]:
    keys, sampling, screening = table.keys, report.sampling, report.screening
    stated = report.ratios.copies.total if screening is None else screening.num_sampled
    if len(keys) != stated:
        yield f"there are {len(keys):,}, but {stated:,} images were judged"
    if len(set(keys)) < len(keys):
        seen: set[int | str] = set()
        repeated = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        kind = "seed" if isinstance(repeated, int) else "name"
        yield f"the {kind} {shown(repeated)} occurs more than once"
    if sampling is None:
        return
    # As texts: ranges may stand for more numbers than fit into memory.
    if ranges(key for key in keys if isinstance(key, int)) != sampling.seeds:
        yield "their seeds are not those of sampling.seeds, in their order"
    found = sampling.confirmation
    if sampling.precision != ("fp32" if found is None else found.precision):
        yield "sampling.precision and sampling.confirmation contradict each other"
    elif found is not None and found.fast_seeds is not None:
        fast = parse_ranges(found.fast_seeds, most=len(keys))
        if found.probe is None or not found.probe.pays or not set(fast) <= set(keys):
            yield "sampling.confirmation names other seeds than can be of the faster format"
    if len(keys) > sampling.most_seeds:
        yield f"there are more than the {sampling.most_seeds:,} seeds that were asked for"
    if screening is not None:
        return  # of a screened scan, see check_screened_rows
    if sampling.nonce is not None:
        drawn = seeds_from_nonce(
            sampling.nonce, report.source.sha256, report.data.fingerprint, len(keys)
        )
        if tuple(drawn) != keys:
            yield "their seeds are not those that the nonce draws"
    stop = _stop(table, report)
    if stop is not None and stop != len(keys):
        yield (
            f"the gate would have stopped after {stop:,} images, not after {len(keys):,}"
            if stop < len(keys)
            else f"the gate had not decided after {len(keys):,} of {sampling.most_seeds:,} images"
        )


def check_screened_rows(
    table: MatchTable, screened: ScreenedRows, config: ScanConfig, report: Report
) -> Check:
    """Compare the rows of screening.csv with the seeds that were screened, and those drawn.

    Args:
        table: matches.csv.
        screened: screening.csv.
        config: the report's settings.
        report: may be hostile.
    """
    screening, sampling, screen = report.screening, report.sampling, config.screening
    assert screening is not None and sampling is not None and screen is not None
    wrong = []
    seeds = config.seeds
    if len(screened) != len(table.keys):
        return Check(SCREENED, False, f"there are {len(screened):,}, not {len(table.keys):,}")
    if len(seeds) != sampling.most_seeds:
        wrong.append(f"{len(seeds):,} seeds were screened, not {sampling.most_seeds:,}")
    position_of = {seed: position for position, seed in enumerate(seeds)}
    positions = [position_of.get(int(key), -1) for key in table.keys]
    if min(positions) < 0 or positions != sorted(positions):
        wrong.append("seeds sampled in full are not among those screened, in their order")
    nonce = sampling.nonce
    if nonce is not None:
        sha256, data = report.source.sha256, report.data.fingerprint
        if tuple(seeds_from_nonce(nonce, sha256, data, len(seeds))) != tuple(seeds):
            wrong.append("the seeds are not those that the nonce draws")
        if screening.key != screening_key(nonce, sha256, data):
            wrong.append("the key is not that of the nonce")
    drawn = drawn_positions(screening.key, seeds, screen.num_drawn(len(seeds)))
    said = np.array(positions)[np.flatnonzero(screened.is_drawn)]
    if not np.array_equal(drawn, said):
        wrong.append("seeds are said to be drawn that the key does not draw, or the reverse")
    is_candidate = screened.is_copy(config.rule, screen.screen_below)
    if not (is_candidate | screened.is_drawn).all():
        wrong.append("a seed is neither a candidate nor drawn")
    S1, S2, nn1 = screened.squared_distance1, screened.squared_distance2, screened.nn1
    is_possible = (S1 >= 0) & (S2 >= S1) & (nn1 >= 0) & (nn1 < report.data.num_images)
    if screened.num_values is not None:
        is_possible &= S2 <= 255**2 * screened.num_values
    if not is_possible.all():
        wrong.append("a distance or a training image cannot be")
    return check(SCREENED, not wrong, "; ".join(wrong))


def _stop(table: MatchTable, report: Report) -> int | None:
    """After how many images sampling ends, given these rows; None where that is not known."""
    if report.sampling is None:
        return None
    if report.fail_above is None or report.fail_above_groups is not None:
        return report.sampling.most_seeds
    if "worst_class" in report.fail_on:
        return None
    controls = report.controls
    gate = Gate(report.fail_above, True, controls.in_gate, controls.whole_images_in_gate)
    decided = first_decided(
        table.matches,
        (0, 0, 0),
        gate=gate,
        min_samples=report.sampling.min_samples,
    )
    return report.sampling.most_seeds if decided is None else decided


def _wrong_neighbors(table: MatchTable, report: Report) -> Iterator[str]:
    matches, total = table.matches, report.data.num_images
    near = matches.neighbors
    outside = np.any((near.index < 0) | (near.index >= total), axis=1)
    outside |= np.any((near.index_distinct < -1) | (near.index_distinct >= total), axis=0)
    if outside.any():
        yield (f"{_row(table, outside)} is about a training image that is not among the {total:,}")
    same = matches.nn1 == matches.nn2
    same |= np.any(near.index_distinct == matches.nn1, axis=0)
    if same.any():
        yield f"{_row(table, same)} has its nearest training image as the second as well"
    S1, S2 = matches.squared_distance1, matches.squared_distance2
    distinct = near.squared_distance_distinct
    none = near.index_distinct < 0
    falling = (S2 < S1) | (S1 < 0) | np.any((distinct < S2) & ~none, axis=0)
    # The distinct one at a larger radius is farther; none at all counts as farthest.
    beyond = np.where(none, np.inf, distinct.astype(np.float64))
    if len(beyond) > 1 and report.data.num_groups is None:  # else it may be of the same group again
        falling |= np.any(np.diff(beyond, axis=0) < 0, axis=0)
    # The second is the distinct one unless it is a duplicate.
    falling |= np.any((near.index_distinct == matches.nn2) & (distinct != S2), axis=0)
    if falling.any():
        yield f"the distances of {_row(table, falling)} are not in order"
    if (none != (distinct < 0)).any():
        yield "a distance is given without its image, or is missing beside one"
    if report.space.exact:
        largest = 255**2 * report.space.num_values
        if max(int(S2.max()), int(distinct.max())) > largest:
            yield f"a squared distance is above {largest:,}, that of black and white"
        C, H, W = report.data.image_shape
        if report.space.num_values != C * H * W:
            said = f"{report.space.num_values:,} values, not of {C * H * W:,}"
            yield f"distances are said to be of {said}"
    for found in matches.finds:
        yield from _wrong_finds(found, table, report)
    if near.radii != searched_radii(matches.rule):
        yield "they are not at the radii that a scan searches"


def _wrong_groups(table: MatchTable, report: Report) -> Iterator[str]:
    """What is wrong with the groups of the neighbors; they are named in leaks.csv only."""
    data, groups = report.data, table.groups
    parts = {
        "groups in matches.csv": groups is not None,
        "data.num_groups": data.num_groups is not None,
        "data.groups_fingerprint": data.groups_fingerprint is not None,
        "data.groups_from": data.groups_from is not None,
    }
    if len(set(parts.values())) > 1:
        missing = [name for name, there in parts.items() if not there]
        yield f"groups are there, but {', '.join(missing)} is missing"
        return
    if groups is None or data.num_groups is None:
        return
    if not 2 <= data.num_groups <= data.num_images:
        yield f"{data.num_groups:,} groups of {data.num_images:,} images cannot be"
    matches = table.matches
    first, second = groups.T
    none = matches.nn2_distinct < 0
    outside = (first < 0) | (groups.max(1) >= data.num_groups) | ((second < 0) != none)
    if outside.any():
        yield f"{_row(table, outside)} is about a group that is not among the {data.num_groups:,}"
    index = np.concatenate([matches.nn1, matches.nn2_distinct[~none]])
    number = np.concatenate([first, second[~none]])
    pairs = np.unique(np.stack([index, number]), axis=1)
    if len(np.unique(index)) < pairs.shape[1]:
        yield "a training image is said to be of two groups"


def _wrong_finds(found: Finds, table: MatchTable, report: Report) -> Iterator[str]:
    """What cannot be of a further rule's finds."""
    total, S, n = report.data.num_images, found.squared_distance, found.num_values
    outside = (found.index < -1) | (found.index >= total)
    if outside.any():
        yield f"{_row(table, outside)} is a copy by {found.rule} of an image that is not there"
    there = found.index >= 0
    wrong = there != (S >= 0)
    wrong |= ~there & (n != 0)
    if found.rule != "features":
        wrong |= (S.dtype.kind != "i") | (S > 255**2 * n.clip(0))
    searched = Searched(report.data.image_shape, report.search.flips)
    rule = next(rule for rule in RULES if rule.name == found.rule)
    possible = [
        rule.can_be(text, number, searched) if is_there else not text
        for text, number, is_there in zip(found.where, n.tolist(), there.tolist(), strict=True)
    ]
    wrong |= ~np.array(possible)
    if wrong.any():
        yield f"what {found.rule} found in {_row(table, wrong)} cannot be"


def _row(table: MatchTable, which: np.ndarray) -> str:
    """The first of some rows, in words."""
    key = table.keys[int(np.flatnonzero(which)[0])]
    return f"seed {key}" if isinstance(key, int) else f"the row of {shown(key)}"
