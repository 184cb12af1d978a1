"""Summarize a scan for the pages of a CI system, as JUnit XML and Markdown."""

from xml.etree import ElementTree

from memaudit.audit.report.charts import share_rows
from memaudit.audit.scanned import Scanned
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.intervals import Proportion
from memaudit.escapes import markdown, markdown_code, xml
from memaudit.wording import exponential, percent

INCONCLUSIVE = "INCONCLUSIVE"
SHOWN_LEAKS = 10
RATIO_NAMES = {
    "copies": "share of copies",
    "distinct": "by distance ratio alone",
    "distinct_at_0": "by distance ratio, exact duplicates",
    "paper": "by the published rule",
}
"""Names of the ratios, the headline first."""
CASE = ("memaudit.scan", "the share of copies is within the limit")
"""Class and name of the only test case."""


def junit_xml(result: Scanned) -> str:
    """The gate as one test case: failure on FAIL, error on INCONCLUSIVE, skipped without a gate."""
    failed, undecided = result.verdict == "FAIL", result.verdict == INCONCLUSIVE
    suite = ElementTree.Element(
        "testsuite",
        name="memaudit",
        tests="1",
        failures=str(int(failed)),
        errors=str(int(undecided)),
        skipped=str(int(result.verdict is None)),
        time=f"{result.timings.total:.3f}",
        timestamp=result.environment.finished,
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _facts(result).items():
        ElementTree.SubElement(properties, "property", name=xml(name), value=xml(value))
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=CASE[0],
        name=CASE[1],
        time=f"{result.timings.total:.3f}",
    )
    if failed or undecided:
        element = ElementTree.SubElement(
            case, "failure" if failed else "error", message=xml(headline(result))
        )
        facts = (xml(f"{name}: {value}") for name, value in _facts(result).items())
        element.text = "\n".join(facts)
    elif result.verdict is None:
        ElementTree.SubElement(case, "skipped", message="no limit was given")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def junit_error(message: str) -> str:
    """The same test case for a scan that could not run."""
    suite = ElementTree.Element("testsuite", name="memaudit", tests="1", failures="0", errors="1")
    case = ElementTree.SubElement(suite, "testcase", classname=CASE[0], name=CASE[1])
    ElementTree.SubElement(case, "error", message=xml(message))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown_summary(result: Scanned) -> str:
    """The verdict, its evidence and the images that leak most, as Markdown."""
    lines = [f"## memaudit: {markdown(headline(result))}", "", "| | |", "|---|---|"]
    facts = {name: value for name, value in _facts(result).items() if name != "verdict"}
    lines += [f"| {name} | {markdown(value)} |" for name, value in facts.items()]
    if result.leaks:
        lines += ["", "| training image | copies |", "|---|---:|"]
        lines += [
            f"| {markdown_code(leak.name)} | {leak.hits:,} |" for leak in result.leaks[:SHOWN_LEAKS]
        ]
        if len(result.leaks) > SHOWN_LEAKS:
            lines += ["", f"… and {len(result.leaks) - SHOWN_LEAKS:,} more in leaks.csv."]
    return "\n".join(lines) + "\n"


def text_summary(result: Scanned) -> str:
    """What a scan found, in a few lines of plain text."""
    lines = [f"{headline(result)}.", *result.conclusion.sentences]
    ratio, shown = result.ratios.copies, share_rows(result)[0][0]
    copies = f"{ratio.count:,} of {ratio.total:,}, {percent(ratio.ratio)} % ({shown.interval})"
    if result.screening is None:
        lines.append(f"Copies: {copies}. {_floors(result)}".rstrip())
    else:
        lines.append(f"Copies among the seeds drawn at random: {ratio}. {_floors(result)}".rstrip())
        lines.append(result.screening.agreement_text)
    lines.append(f"{result.leaks_text}.")
    lines += result.controls.notes(result.config.rule.duplicate_rms)
    for _, diagnostic, found in result.diagnostics.results():
        lines += [line for line in diagnostic.lines(found) if isinstance(line, str)]
    if result.left_out:
        lines.append(f"Left out on request: {result.left_out}.")
    if result.conclusion.choices:
        lines.append(f"Not the defaults: {'; '.join(result.conclusion.choices)}.")
    for text in (result.kept_text, result.confirmation_text):
        if text:
            lines.append(text)
    lines += [f"Warning: {warning}" for warning in result.source.warnings]
    return "\n".join(lines)


def headline(result: Scanned) -> str:
    """The verdict, if there is one, or the number of copies, in one line."""
    return result.conclusion.headline


def _floors(result: Scanned) -> str:
    """The floors that were measured, in one sentence each."""
    floors = (result.controls.holdout, result.controls.leave_one_out)
    return " ".join(
        f"Floor by {floor.control}: {floor.copies}." for floor in floors if floor is not None
    )


def _facts(result: Scanned) -> dict[str, str]:
    conclusion = result.conclusion
    facts = {"verdict": conclusion.headline, "statement": " ".join(conclusion.sentences)}
    if conclusion.choices:
        facts["not the defaults"] = "; ".join(conclusion.choices)
    facts |= {name: _share(getattr(result.ratios, field)) for field, name in RATIO_NAMES.items()}
    facts |= {f"copies by {row.rule}": _share(row.copies) for row in result.ratios.by_rule}
    if result.screening is not None:
        of_drawn = " of the seeds drawn at random"
        facts = {
            f"{name}{of_drawn}" if name in RATIO_NAMES.values() else name: value
            for name, value in facts.items()
        }
        facts["screening"] = f"{result.screening.share_text}; {result.screening.agreement_text}"
    elif result.decision is not None:
        # Beside a one-sided verdict, a two-sided interval would seem to contradict it.
        ratio, shown = result.ratios.copies, share_rows(result)[0][0]
        facts[RATIO_NAMES["copies"]] = (
            f"{percent(ratio.ratio)} % [{shown.interval}] ({ratio.count:,} of {ratio.total:,})"
        )
    for floor in (result.controls.holdout, result.controls.leave_one_out):
        if floor is not None:
            facts[f"floor, {floor.control}"] = _share(floor.copies)
    if result.decision is not None:
        facts["limit"] = f"{percent(result.decision.limit)} %"
        facts["confidence"] = f"{100 * result.decision.confidence:g} %"
        facts["evidence"] = _evidence(result.decision)
    explained = result.is_explained_by_floor
    named = (
        "training images nearest to what was counted" if explained else "training images that leak"
    )
    facts[named] = f"{len(result.leaks):,} of {len(result.data):,}"
    if result.few_searched:
        facts["few images"] = result.few_searched
    hashed = "SHA-256" if result.source.kind == "checkpoint" else "SHA-256 of the pixels"
    facts["source"] = f"{result.source.path} ({hashed} {result.source.sha256})"
    facts["training images"] = (
        f"{len(result.data):,} of {result.data.source} (SHA-256 of the pixels "
        f"{result.data.fingerprint})"
    )
    if result.kept_text:
        facts["kept images"] = result.kept_text
    if result.confirmation_text:
        facts["number formats"] = result.confirmation_text
    if result.denoising is not None:
        facts["denoising test"] = result.denoising.message
        used = result.denoising.noise_range
        facts["noise levels"] = f"{used.used_min:g} to {used.used_max:g}"
    if result.left_out:
        facts["left out on request"] = result.left_out
    if result.source.warnings:
        facts["warning"] = " ".join(result.source.warnings)
    facts["memaudit"] = result.environment.memaudit
    return facts


def _evidence(decision: Decision) -> str:
    """The evidence on both sides, and how much of it decides."""
    above, below = decision.evidence_above, decision.evidence_below
    fails, passes = decision.required_above, decision.required
    beyond = f"more than {percent(decision.fail_limit)} % (limit and floor)"
    within = f"less than {percent(decision.limit)} %"
    test = decision.whole_images
    if decision.method == "sequential":
        if test is not None:
            beyond = (
                f"{beyond}, {exponential(test.evidence_above)} for more than "
                f"{percent(test.fail_limit)} % copies of whole images"
            )
        return (
            f"e-value {exponential(above)} for {beyond}, where {exponential(fails)} fails; "
            f"{exponential(below)} for {within}, where {exponential(passes)} passes"
        )
    if test is not None:
        beyond = (
            f"{beyond}, {exponential(-test.evidence_above)} for more than "
            f"{percent(test.fail_limit)} % copies of whole images"
        )
    return (
        f"p = {exponential(-above)} for {beyond}, where {exponential(-fails)} fails; "
        f"p = {exponential(-below)} for {within}, where {exponential(-passes)} passes"
    )


def _share(ratio: Proportion) -> str:
    return (
        f"{percent(ratio.ratio)} % [{percent(ratio.low)}, {percent(ratio.high)}] "
        f"({ratio.count:,} of {ratio.total:,})"
    )
