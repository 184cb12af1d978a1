"""Check a report against itself, and against the checkpoint and the images that it names.

Everything that follows from matches.csv is computed again, and every byte of the folder's files is
covered by a hash. A hash shows damage and careless edits. It is not a signature: a forger can make
new ones. What needs images or the model is measured again where they are given, and a verification
says what it did not prove.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import Context, Images, Setting
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.screened import ScreenedRows
from memaudit.audit.neighbors.build import open_rules
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.regeneration import caught_share
from memaudit.audit.report.folder import MATCHES, PAGE, REPORT, SCREENING
from memaudit.audit.report.schema import Report, decode, is_sealed, plain
from memaudit.audit.report.tables import LeakNames, MatchTable, read_screening
from memaudit.audit.source import OPTIMUM, holds_images
from memaudit.audit.statistics.conformal import conformal_p
from memaudit.audit.verification.check import Check, Unproven, check
from memaudit.audit.verification.choices import check_choices
from memaudit.audit.verification.controls import check_controls, measure_again
from memaudit.audit.verification.files import check_hashes, read_files, read_report_bytes
from memaudit.audit.verification.findings import (
    Recomputed,
    check_findings,
    read_tables,
    recompute_findings,
    same,
)
from memaudit.audit.verification.given import (
    check_data,
    checkpoint_hash,
    open_data,
    open_given_images,
    open_like_data,
)
from memaudit.audit.verification.page import PAGE_WORDS, check_page
from memaudit.audit.verification.policy import Policy, check_policy, read_policy
from memaudit.audit.verification.rows import ROWS, check_rows, check_screened_rows
from memaudit.audit.verification.search import SEARCH, check_possible, check_search
from memaudit.audit.verification.settings import config_of
from memaudit.audit.verification.spot_check import (
    MOST_STEPS,
    check_denoising_again,
    check_drawn_rows,
    check_facts,
    check_samplers_again,
    open_model,
    recipe_of,
)
from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.progress import Progress, silent
from memaudit.wording import percent, printable, short

FINDINGS = "ratios and verdict"
ROUNDED = 1e-6
"""Share by which a diagnostic's floats may differ from machine to machine."""


@dataclass(frozen=True)
class Verification:
    """The outcome of checking a report."""

    checks: tuple[Check, ...]
    sha256: str
    """SHA-256 of report.json, to compare with one that was recorded elsewhere."""
    verdict: str | None
    """The verdict that the report states."""
    choices: tuple[str, ...] = ()
    """What the report states was not left at its default."""
    proven: tuple[str, ...] = ()
    """What the checks prove, if all of them passed: one sentence each."""
    unproven: tuple[Unproven, ...] = ()
    """What the report states and nothing here proves."""

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


@fp32_products(False)
def verify_report(
    folder: str | Path,
    *,
    source: Path | None = None,
    data: Path | None = None,
    holdout: Path | None = None,
    holdout_split: str | None = None,
    labels_file: Path | None = None,
    groups_from: str | None = None,
    spot_check: int = 0,
    policy: Path | Policy | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Verification:
    """Check a report folder.

    Nothing is read from a cache.

    Args:
        folder: holds report.json, matches.csv, leaks.csv and report.html.
        source: the checkpoint or the generated images that the report should be about.
        data: the training images that the report should be about, as a whole; the report says
            which part of them was used. Their floor is measured again. With given images, the
            search is done again.
        holdout: the held-out images; floor and tests that need them are computed again.
        holdout_split: the split of them that was taken, if it was chosen.
        labels_file: the file that the labels came from, if the report names one.
        groups_from: the regular expression or file that the groups came from, or `own`, if the
            report has groups.
        spot_check: rows of a report on a model that are drawn at random, generated again with the
            report's settings, and searched.
        policy: the audit that was agreed on; each clause is a check.
        device: where to search and to sample.
        progress: told how far the reading of images, the search and the sampling are.

    Raises:
        ConfigError: there is no report, or the policy is malformed, or something is missing that a
            check needs.
        CheckpointError, DataError: the source or the images cannot be opened.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import memaudit
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> result = memaudit.scan(images[:5], images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = memaudit.write_report(result, folder)
        ...     memaudit.verify_report(folder).passed
        True
    """
    if spot_check < 0:
        raise ConfigError(
            f"{{spot_check}} is {spot_check}; a number of images is needed.", field="spot_check"
        )
    if spot_check and (source is None or data is None):
        raise ConfigError(
            "{spot_check} generates images again and searches them: give the checkpoint with "
            "{source} and the training images with {data}.",
            field=("spot_check", "source", "data"),
        )
    if str(source) == OPTIMUM and data is None:
        raise ConfigError(
            "The optimum consists of its training images: give them with {data}.", field="data"
        )
    if isinstance(policy, str | Path):
        policy = read_policy(policy)
    folder = Path(folder)
    content = read_report_bytes(folder)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        report = decode(content)
    except Exception as error:  # whatever a forged report causes
        failed = Check(REPORT, False, f"cannot be read: {_said(error)}")
        return Verification((failed,), sha256, None)
    work = _Work(folder, report, device, progress, holdout_split, labels_file, groups_from)
    work.checks.append(check(REPORT, is_sealed(content), "was changed after it was written"))
    work.check_itself()
    work.check_given(source, data, holdout, spot_check)
    if policy is not None:
        work.add("policy", lambda: check_policy(policy, report))
        work.prove("The report keeps every clause of the policy.")
    return Verification(
        checks=tuple(work.checks),
        sha256=sha256,
        verdict=report.verdict,
        choices=report.conclusion.choices,
        proven=tuple(work.proven),
        unproven=tuple(work.unproven),
    )


@dataclass
class _Work:
    """A report while it is checked."""

    folder: Path
    report: Report
    device: str
    progress: Progress
    holdout_split: str | None = None
    labels_file: Path | None = None
    groups_from: str | None = None
    checks: list[Check] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    unproven: list[Unproven] = field(default_factory=list)
    table: MatchTable | None = None
    known: LeakNames | None = None
    """The tables, if they can be read."""
    screened: ScreenedRows | None = None
    """What screening.csv holds, of a screened scan."""
    again: Recomputed | None = None
    """The tables, and what follows from them, if something does."""
    config: ScanConfig | None = None
    """The report's settings, if they can be."""

    def add(
        self,
        name: str,
        make: Callable[[], Iterable[Check]],
        *,
        at_fault: tuple[type[Exception], ...] = (),
    ) -> bool:
        """Add checks; whatever a forged report raises is one that failed.

        Args:
            name: of the check that fails instead.
            make: computes the checks.
            at_fault: errors that are not the report's, and are raised.

        Returns:
            Whether all of them passed.
        """
        first = len(self.checks)
        try:
            for each in make():
                self.checks.append(each)
        except at_fault:
            raise
        except Exception as error:
            self.checks.append(Check(name, False, f"cannot be computed again: {_said(error)}"))
        return all(each.passed for each in self.checks[first:])

    def prove(self, *sentences: str) -> None:
        """Add what is proven, if everything passed."""
        self.proven += sentences

    # --------------------------------------------------------------------------------------------
    # Against itself

    def check_itself(self) -> None:
        """Compare the files with each other."""
        report = self.report
        files = read_files(self.folder, report)
        self.add("files", lambda: check_hashes(files, report))

        def rows() -> Iterable[Check]:
            self.table, self.known = read_tables(files, report)
            yield from check_rows(self.table, report)
            self.config = config_of(report, self.table.keys)
            if report.screening is not None:
                screened = read_screening(files.text(SCREENING), report.space)
                found = check_screened_rows(self.table, screened, self.config, report)
                self.screened = screened if found.passed else None
                yield found

        self.add(ROWS, rows)

        def findings() -> Iterable[Check]:
            if self.table is None or self.known is None or self.config is None:
                raise ValueError(f"{MATCHES} cannot be used")
            if report.screening is not None and self.screened is None:
                raise ValueError(f"{SCREENING} cannot be used")
            self.again = recompute_findings(
                self.table, self.known, report, self.screened, self.config
            )
            yield from check_findings(self.again, files, report, self.config)

        self.add(FINDINGS, findings)

        def choices() -> Iterable[Check]:
            if self.config is None:
                raise ValueError(f"{MATCHES} cannot be used")
            yield check_choices(report, self.config)

        self.add("choices", choices)
        self.add("controls", lambda: [check_controls(report)])

        def page() -> Iterable[Check]:
            if self.again is None or self.config is None:
                raise ValueError(f"{MATCHES} cannot be used")
            found, unproven = check_page(files.text(PAGE), report, self.again, self.config)
            if unproven is not None:
                self.unproven.append(unproven)
            yield found

        if PAGE not in files.problems:
            self.add(PAGE_WORDS, page)
        self.prove(
            "Ratios, intervals, leaks and verdict follow from matches.csv and the controls.",
            "matches.csv has one row for each image that was judged, and names only images of the "
            "training set.",
        )
        if report.screening is not None:
            self.prove(
                "The seeds drawn at random are those that the recorded key draws, and the estimate "
                "follows from the images that were sampled in full."
            )
            self.unproven.append(
                Unproven(
                    "Which seeds were candidates, and that the key was not picked: seeds that were "
                    "not sampled in full are not screened again. The interval holds whichever "
                    "candidates there were."
                )
            )
        self.unproven.append(
            Unproven(
                "Who made the report. Its hashes show changes, but anybody can make new ones: "
                "record the SHA-256 of report.json, or sign it."
            )
        )

    # --------------------------------------------------------------------------------------------
    # Against what was given

    def check_given(
        self, source: Path | None, data: Path | None, holdout: Path | None, spot_check: int
    ) -> None:
        """Compare the report with the checkpoint and the images."""
        report, is_model = self.report, self.report.source.kind == "checkpoint"
        training = None if data is None else self._open_data(data)
        others = None if holdout is None else self._open_holdout(holdout)
        images = checkpoint = None
        if source is not None:
            if str(source) != OPTIMUM and holds_images(source):
                if spot_check:
                    raise ConfigError(
                        f"{{spot_check}} generates images again, and {source} holds images, all of "
                        "which are searched again. Leave it out.",
                        field="spot_check",
                    )
                images = self._open_images(source)
            elif self._is_checkpoint(source, training) and spot_check and training is not None:
                checkpoint = open_model(source, report, training, self.device)
        self._say_missing(source, data, holdout)
        if training is None or self.table is None or self.config is None:
            return
        if not report.space.exact or "features" in report.search.match:
            self.unproven.append(
                Unproven(
                    "Features were compared: no image is generated or searched again, and neither "
                    "the floors nor what stands beside the ratio are computed again."
                )
            )
            return
        rows_fit = all(each.passed for each in self.checks if each.name == ROWS)
        if not rows_fit:
            return
        index = NeighborIndex(
            training.images,
            device=self.device,
            flips=report.search.flips,
            groups=training.group_numbers,
            progress=self.progress,
        )
        index.rules = open_rules(index, self.config.index, progress=self.progress)
        table = self.table
        if images is not None:
            given = images
            self.add(SEARCH, lambda: [check_search(index, given, table, self.progress)])
            self.prove(f"All {len(given):,} generated images were searched again: every row holds.")
        else:
            flips = report.search.flips
            self.add(SEARCH, lambda: check_possible(training, table, flips=flips))
        if checkpoint is not None:
            self._spot_check(checkpoint, index, training, spot_check)
        elif is_model and source is not None:
            self.unproven.append(
                Unproven("matches.csv was not generated again, not even in part.", ("spot_check",))
            )
        judged = self._measure_controls(index, training, others)
        if self.again is not None:
            self._run_diagnostics(index, training, others, judged, images)

    def _open_data(self, path: Path) -> ImageSet | None:
        stated, labels_file = self.report.data, self.labels_file
        found = open_data(
            path, stated, self.progress, labels_file=labels_file, groups_from=self.groups_from
        )
        if isinstance(found, str):
            self.checks.append(Check(f"data {path}", False, found))
            return None
        self.checks.append(Check(f"data {path}", True, ""))
        self.add("training images", lambda: check_data(found, self.report, self.known, self.table))
        self.prove("The training images given are those of the report.")
        return found

    def _open_holdout(self, path: Path) -> ImageSet | None:
        stated = self.report.diagnostics.holdout
        found = open_like_data(
            path,
            self.report.data,
            None if stated is None else stated.fingerprint,
            self.progress,
            layout=Layout(
                split=self.holdout_split,
                groups_from=None if self.report.data.groups_from is None else self.groups_from,
            ),
        )
        name = f"holdout {path}"
        if not self.report.controls.num_holdout:
            self.checks.append(Check(name, False, "is not part of the report"))
            return None
        is_same = len(found) == self.report.controls.num_holdout and (
            stated is None or stated.fingerprint == found.fingerprint
        )
        self.checks.append(check(name, is_same, "are not the held-out images reported"))
        return found if is_same else None

    def _open_images(self, path: Path) -> ImageSet | None:
        name, report = f"source {path}", self.report
        if report.source.kind != "images":
            self.checks.append(Check(name, False, "holds images; the report is about a model"))
            return None
        if self.table is None:
            self.checks.append(Check(name, False, f"has no rows: {MATCHES} cannot be used"))
            return None
        images, checks = open_given_images(path, self.table, report, self.progress)
        self.checks += checks
        self.prove("The generated images given are those of the report, one row for each.")
        return images

    def _is_checkpoint(self, path: Path, data: ImageSet | None) -> bool:
        name, stated = f"source {path}", self.report.source.sha256
        if self.report.source.kind != "checkpoint":
            self.checks.append(Check(name, False, "is a model; the report is about given images"))
            return False
        is_same = checkpoint_hash(path, data) == stated
        self.checks.append(check(name, is_same, f"is not the one reported, {stated}"))
        self.prove("The checkpoint given is that of the report.")
        return is_same

    def _say_missing(self, source: Path | None, data: Path | None, holdout: Path | None) -> None:
        """Say what was not proven since it was not given."""
        kind = self.report.source.kind
        missing = tuple(
            name for name, given in (("data", data), ("source", source)) if given is None
        )
        if missing:
            what = "generated or searched" if kind == "checkpoint" else "searched"
            needs = missing if kind == "images" else (*missing, "spot_check")
            self.unproven.append(
                Unproven(
                    f"{MATCHES} was not {what} again: that its neighbors and distances are those "
                    "of the images is not proven.",
                    needs,
                )
            )
        if data is None:
            self.unproven.append(
                Unproven("The floor by leave-one-out was not measured.", ("data",))
            )
            results = self.report.diagnostics.results()
            beside = [name for name, each, _ in results if not each.follows_from_matches]
            if beside:
                text = f"What stands beside the ratio was not computed again: {', '.join(beside)}."
                self.unproven.append(Unproven(text, ("data",)))
        needs = tuple(
            name for name, given in (("data", data), ("holdout", holdout)) if given is None
        )
        if self.report.controls.num_holdout and needs:
            self.unproven.append(
                Unproven("The floor of the held-out images was not measured.", needs)
            )
        if self.report.pictures != "none":
            text = "The pictures of report.html: only its words were compared."
            self.unproven.append(Unproven(text))

    def _spot_check(
        self, checkpoint: Checkpoint, index: NeighborIndex, data: ImageSet, number: int
    ) -> None:
        table, config, report = self.table, self.config, self.report
        assert table is not None and config is not None
        self.add(
            "spot check",
            lambda: check_drawn_rows(
                checkpoint,
                index,
                data,
                table,
                config,
                confirmation=None if report.sampling is None else report.sampling.confirmation,
                number=number,
                device=self.device,
                progress=self.progress,
            ),
            at_fault=(MemoryError,),
        )
        if checkpoint.path != OPTIMUM:
            self.add("facts of the checkpoint", lambda: [check_facts(checkpoint, data, report)])
        control = report.sampler_control
        if control is not None and (config.sampler.num_steps or 0) <= MOST_STEPS:
            recipe = recipe_of(checkpoint, data, config, self.device)
            self.add(
                "published sampler",
                lambda: [
                    check_samplers_again(checkpoint, index, table, control, recipe, self.progress)
                ],
                at_fault=(MemoryError,),
            )
        self.add(
            "denoising test",
            lambda: [
                check_denoising_again(
                    checkpoint,
                    data,
                    report.denoising,
                    config,
                    device=self.device,
                    progress=self.progress,
                )
            ],
            at_fault=(MemoryError,),
        )
        total = len(table.keys)
        if number >= total:
            self.prove(f"All {total:,} images were generated again and searched.")
            return
        share = caught_share(number)
        self.prove(
            f"{number:,} of {total:,} rows, drawn at random, were generated again and searched. If "
            f"a share f of the rows were forged, this would be noticed with probability "
            f"1 − (1 − f)^{number}: 95 % for f = {percent(share)} %."
        )
        self.unproven.append(
            Unproven(
                f"That fewer than {percent(share)} % of the rows are forged: draw more of them to "
                "notice fewer."
            )
        )

    def _measure_controls(
        self, index: NeighborIndex, data: ImageSet, holdout: ImageSet | None
    ) -> Matches | None:
        """Measure the floors again; the matches of held-out images, if there are any."""
        table, judged = self.table, None
        assert table is not None

        def floors() -> Iterable[Check]:
            nonlocal judged
            found, judged = measure_again(
                index, data, holdout, self.report, table.matches.rule, self.progress
            )
            yield found
            if judged is not None and table.conformal is not None:
                p = conformal_p(table.matches.distance_ratio, judged.distance_ratio)
                is_same = p.num_references == table.conformal.num_references and same(
                    table.conformal.p_value.tolist(), p.p_value.tolist()
                )
                yield check("p-values of the held-out images", is_same, "are not those measured")

        self.add("floors", floors, at_fault=(MemoryError,))
        self.prove(
            "The floors measured again are those of the report."
            if holdout is not None
            else "The leave-one-out floor measured again is that of the report."
        )
        return judged

    def _run_diagnostics(
        self,
        index: NeighborIndex,
        data: ImageSet,
        holdout: ImageSet | None,
        judged_holdout: Matches | None,
        images: ImageSet | None,
    ) -> None:
        """Compute again what stands beside the ratio, as far as its inputs are given."""
        again, config, report = self.again, self.config, self.report
        assert again is not None and config is not None
        setting = Setting(config, data, holdout, None, index.without_flips, self.progress)
        generated = None if images is None else images.images
        context = replace(
            again.context,
            images=Images(setting, generated, index, report.controls, judged_holdout),
        )
        for name, diagnostic in DIAGNOSTICS.items():
            stated = getattr(report.diagnostics, name)
            if diagnostic.follows_from_matches or name in report.without:
                continue
            if diagnostic.by_request and stated is None:
                continue
            if diagnostic.is_possible(context):
                self._run_diagnostic(name, context)
            elif stated is None:
                continue
            elif "model" in diagnostic.requires:
                text = f"{name} needs the model, and is not computed again."
                self.unproven.append(Unproven(text))
            elif "holdout" in diagnostic.requires and holdout is None:
                self.unproven.append(Unproven(f"{name} was not computed again.", ("holdout",)))
            else:
                text = f"{name} needs all generated images, which a report does not hold."
                self.unproven.append(Unproven(text))

    def _run_diagnostic(self, name: str, context: Context) -> None:
        stated = plain(getattr(self.report.diagnostics, name))

        def compare() -> Iterable[Check]:
            found = plain(DIAGNOSTICS[name].run(context))
            if isinstance(found, dict) and isinstance(stated, dict) and "path" in found:
                found["path"] = stated.get("path")  # the same images may have been moved
            is_same = same(stated, found, rounding=ROUNDED)
            yield check(f"diagnostic {name}", is_same, "is not the one computed again")

        self.add(f"diagnostic {name}", compare, at_fault=(MemoryError,))


def _said(error: Exception) -> str:
    """An error in a few words that can be printed."""
    text = short(printable(str(error)), 300)
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if isinstance(error, KeyError | IndexError | TypeError | AttributeError):
        return f"a value is missing or of another kind ({text})"
    return text or type(error).__name__
