"""The controls of a report: compared with themselves, and measured again where images are given."""

from dataclasses import replace

from memaudit.audit.memorization.controls import (
    DENSE,
    LEFT_OUT_BESIDE_HOLDOUT,
    LEFT_OUT_IMAGES,
    PART,
    Floor,
    measure_controls,
    measure_leave_one_out,
)
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.report.schema import Report, plain
from memaudit.audit.sampler_control import NUM_COMPARED, is_changed
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.verification.check import Check, check
from memaudit.audit.verification.findings import same
from memaudit.data.images import ImageSet
from memaudit.progress import Progress


def check_controls(report: Report) -> Check:
    """Compare what the report says of its controls with itself: their images are not in it."""
    controls, total = report.controls, report.data.num_images
    wrong = [
        f"the {floor.control} floor"
        for floor in (controls.leave_one_out, controls.holdout)
        if floor is not None and not _is_possible(floor, report)
    ]
    alone, holdout = controls.leave_one_out, controls.holdout
    if alone is not None and alone.copies.total > total:
        wrong.append("more images left out than there are")
    remaining = 0 if holdout is None else holdout.copies.total
    if remaining + controls.num_set_apart != controls.num_holdout:
        wrong.append("the number of held-out images")
    # Only 1 % set apart makes data dense; near pairs of the training set have to be common as well.
    is_dense = (
        alone is not None
        and controls.num_holdout > 0
        and controls.num_set_apart / controls.num_holdout > DENSE
        and alone.num_near_moved / alone.copies.total > DENSE
    )
    if not _are_whole_images_possible(report):
        wrong.append("what whole images alone count")
    if controls.is_dense != is_dense:
        wrong.append("whether the data is dense")
    if not _is_sampler_control_possible(report):
        wrong.append("the comparison with the published sampler")
    return check("controls", not wrong, f"contradict each other: {', '.join(wrong)}")


def _are_whole_images_possible(report: Report) -> bool:
    """Whether the held-out count of whole images alone can be beside that of all rules."""
    controls, match = report.controls, report.search.match
    whole, holdout = controls.whole_images, controls.holdout
    if whole is None or not match or not controls.num_holdout:
        return whole is None and not (match and controls.num_holdout)
    # All that any rule sets apart, and what whole images count among the others.
    remaining = 0 if holdout is None else holdout.copies.total
    least = 0 if holdout is None else holdout.by_rule[0].count if holdout.by_rule else -1
    return (
        whole.control == "held-out images"
        and remaining <= whole.total <= controls.num_holdout
        and least <= whole.count <= least + whole.total - remaining
    )


def _is_sampler_control_possible(report: Report) -> bool:
    """Whether the published sampler was tried where it had to be, with counts that can be."""
    found, sampling = report.sampler_control, report.sampling
    needed = sampling is not None and report.fail_above is not None and is_changed(sampling.sampler)
    if found is None or not needed:
        return found is None and not needed
    return found.is_possible and found.num_images in (0, NUM_COMPARED)


def _is_possible(floor: Floor, report: Report) -> bool:
    """Whether the counts of a control can be those of one set of images."""
    total, copies = floor.copies.total, floor.copies.count
    counts = {(cell.threshold, cell.duplicate_rms): cell.count for cell in floor.cells}
    by_ratio = counts.get((report.threshold_fraction, report.duplicate_rms), -1)
    near = counts.get((None, report.duplicate_rms), 0)  # no such cells where features are compared
    ordered = all(
        counts[smaller] <= counts[larger]
        for smaller in counts
        for larger in counts
        if (smaller[0] is None) == (larger[0] is None)
        if (smaller[0] or 0) <= (larger[0] or 0) and smaller[1] <= larger[1]
        if report.data.num_groups is None or smaller[1] == larger[1]
    )
    return (
        total > 0
        and len(counts) == len(floor.cells)
        and all(0 <= count <= total for count in counts.values())
        and ordered
        and near == floor.num_near
        and near <= floor.num_near_moved <= total
        and (bool(report.search.match) or near == floor.num_near_moved)
        and _are_counts_possible(floor, (by_ratio, near), report.search.match)
        and same(plain(floor.copies), plain(clopper_pearson(copies, total, report.confidence)))
    )


def _are_counts_possible(floor: Floor, of_pixels: tuple[int, int], match: tuple[str, ...]) -> bool:
    """Whether the copies can be what whole images and further rules count together.

    Args:
        floor: of a control.
        of_pixels: copies by the distance ratio, and images within the radius.
        match: the rules that count, where whole images alone do not.
    """
    copies = floor.copies.count
    if tuple(each.rule for each in floor.by_rule) != match:
        return False
    by_pixels = floor.by_rule[0].count if match else copies
    counts = [each.count for each in floor.by_rule] or [copies]
    return (
        max(of_pixels) <= by_pixels <= sum(of_pixels)
        and min(counts) >= 0
        and max(counts) <= copies <= sum(counts)
    )


def measure_again(
    index: NeighborIndex,
    data: ImageSet,
    holdout: ImageSet | None,
    report: Report,
    rule: Rule,
    progress: Progress,
) -> tuple[Check, Matches | None]:
    """Measure the controls again, as far as their images are given.

    Args:
        index: of the training images.
        data: the training images.
        holdout: the report's held-out images, or None: then leave-one-out alone is measured.
        report: may be hostile.
        rule: the report's.
        progress: told how many images have been judged.

    Returns:
        Whether they are the report's, and the matches of all held-out images.
    """
    stated = report.controls
    most = _left_out(report)
    if holdout is not None:
        found, judged = measure_controls(
            index,
            data,
            holdout,
            rule,
            open_pixel_index=lambda: index,
            most_left_out=most,
            progress=progress,
        )
        return check("floors", same(plain(stated), plain(found)), "are not those measured"), judged
    alone, near_pairs = measure_leave_one_out(index, data, rule, most, progress=progress)
    again = replace(stated, leave_one_out=alone, near_pairs=near_pairs)
    is_same = same(plain(stated), plain(again))
    return check("leave-one-out floor", is_same, "is not the one measured"), None


def _left_out(report: Report) -> int:
    """Training images that leave-one-out judged at most.

    It stops after fewer, a number of whole parts, where many of them had to be compared with all
    others, and this depends on the machine.
    """
    most = LEFT_OUT_BESIDE_HOLDOUT if report.controls.num_holdout else LEFT_OUT_IMAGES
    alone = report.controls.leave_one_out
    if alone is not None and 2 * PART <= alone.copies.total < most:
        return alone.copies.total if alone.copies.total % PART == 0 else most
    return most
