"""What a reader sees first: the verdict, the closest pair, three pieces of evidence, what to do.

Page, terminal and notebook show the same, in the words of words.en.toml.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memaudit.audit.report.charts import share_rows
from memaudit.audit.report.html import unbroken
from memaudit.audit.report.pairs import nearest_of, rows_to_show
from memaudit.audit.report.words import say, say_html
from memaudit.audit.scanned import Scanned
from memaudit.audit.statistics.intervals import level_text
from memaudit.wording import percent, short

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_EVIDENCE = 3


@dataclass(frozen=True)
class Sentence:
    """A sentence of the file of words, with its values."""

    key: str
    values: dict[str, object]

    @property
    def text(self) -> str:
        return say(self.key, **self.values)

    @property
    def html(self) -> "Markup":
        return say_html(self.key, **self.values)


@dataclass(frozen=True)
class Evidence:
    """A piece of evidence: a number, and what it is the number of."""

    value: str
    what: Sentence


@dataclass(frozen=True)
class FirstScreen:
    """What a reader sees first."""

    headline: str
    about: str
    """What was counted, and why the verdict is not the one of the count alone."""
    evidence: tuple[Evidence, ...]
    """At most three, the most telling first."""
    next_step: str | Sentence
    best: int | None
    """Row of the closest pair, or None if nothing was judged."""
    pair: Sentence | None
    """The closest pair in a line."""
    caption: Sentence | None
    """What stands below its pictures."""

    @property
    def next_text(self) -> str:
        step = self.next_step
        return step.text if isinstance(step, Sentence) else step

    @property
    def next_html(self) -> "Markup":
        step = self.next_step
        return step.html if isinstance(step, Sentence) else unbroken(step)


def first_screen(result: Scanned) -> FirstScreen:
    """What a reader sees first of a scan."""
    conclusion = result.conclusion
    reasons = (reason.text for reason in conclusion.reasons)
    about = (conclusion.about, conclusion.groups, *reasons)
    rows = rows_to_show(result.matches)[0]
    best = int(rows[0]) if len(rows) else None
    pair = caption = None
    if best is not None:
        by_seed = result.source.kind == "checkpoint"
        is_copy = bool(result.matches.is_copy[best])
        training, distance = nearest_of(result, best)
        values: dict[str, object] = {
            "generated": say(
                "first.seed" if by_seed else "first.image", key=short(result.keys[best], 40)
            ),
            "training": short(training, 40),
        }
        kind = "pair" if not is_copy else "counted" if result.is_explained_by_floor else "copy"
        caption = Sentence(f"first.{kind}_caption", values)
        values = {**values, "distance": distance}
        pair = Sentence(f"first.{kind}_line", values)
    return FirstScreen(
        headline=conclusion.headline,
        about=" ".join(text for text in about if text),
        evidence=tuple(_evidence(result))[:MOST_EVIDENCE],
        next_step=conclusion.advice or Sentence(f"next.{_next(result)}", {}),
        best=best,
        pair=pair,
        caption=caption,
    )


def _evidence(result: Scanned) -> Iterator[Evidence]:
    """What speaks for the verdict, the most telling first."""
    denoising, conclusion = result.denoising, result.conclusion
    if denoising is not None and not denoising.denoises:
        yield Evidence(say("evidence.no"), Sentence("evidence.not_denoises", {}))
    yield _copies(result)
    num_leaks = len(result.leaks)
    if num_leaks:
        key = "near" if result.is_explained_by_floor else "leaks"
        values: dict[str, object] = {"count": num_leaks, "total": len(result.data)}
        yield Evidence(f"{num_leaks:,}", Sentence(f"evidence.{key}", values))
    controls = result.controls
    for floor, name in ((controls.holdout, "holdout"), (controls.leave_one_out, "leave_one_out")):
        if floor is not None and floor.copies.total:
            share = floor.copies
            interval = say("numbers.interval", low=share.low, high=share.high)
            yield Evidence(
                f"{share.count:,} of {share.total:,}",
                Sentence(f"evidence.floor_{name}", {"interval": interval}),
            )
            break
    if denoising is not None and denoising.denoises and conclusion.verdict == "PASS":
        yield Evidence(say("evidence.yes"), Sentence("evidence.denoises", {}))
    recall = result.diagnostics.recall
    planted = () if recall is None else recall.planted
    for copies in planted:
        if copies.key.startswith("noise"):
            values = {"phrase": copies.phrase}
            count = f"{copies.seen.count:,} of {copies.seen.total:,}"
            yield Evidence(count, Sentence("evidence.recall", values))


def _copies(result: Scanned) -> Evidence:
    """How many images are copies, with what the verdict rests on."""
    if result.screening is not None:
        share = result.screening.copies
        interval = say("numbers.interval", low=share.low, high=share.high)
        return Evidence(
            f"{percent(share.value)} %", Sentence("evidence.estimated", {"interval": interval})
        )
    ratio, row = result.ratios.copies, share_rows(result)[0][0]
    count = f"{ratio.count:,} of {ratio.total:,}"
    if row.bound == "both":
        key = "counted" if result.is_explained_by_floor else "copies"
        return Evidence(count, Sentence(f"evidence.{key}", {"interval": row.interval}))
    level = level_text(ratio.confidence)
    return Evidence(
        count, Sentence("evidence.copies_bound", {"bound": row.interval, "level": level})
    )


def _next(result: Scanned) -> str:
    """Name of the sentence that says what to do next."""
    conclusion, denoising = result.conclusion, result.denoising
    if conclusion.verdict == "FAIL":
        return "fail"
    if denoising is not None and not denoising.allows_pass:
        return "not_denoising"
    if conclusion.is_contradicted:
        return "contradicted"
    if conclusion.verdict == "PASS":
        return "pass" if result.controls.holdout is not None else "pass_no_holdout"
    if result.is_explained_by_floor:
        return "floor" if result.controls.holdout is None else "floor_holdout"
    if conclusion.verdict == "INCONCLUSIVE":
        return "undecided"
    return "no_gate_copies" if result.leaks else "no_gate"
