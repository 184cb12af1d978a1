"""The table of diagnostics: which of them run, and what a report says when one did not."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics import registry
from memaudit.audit.diagnostics.blind_baseline import BlindBaseline
from memaudit.audit.diagnostics.c_t import CopyingStatistic
from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, Need, PageContext, Setting
from memaudit.audit.diagnostics.registry import (
    DIAGNOSTICS,
    Diagnostics,
    recompute,
    run_diagnostics,
)
from memaudit.audit.diagnostics.section import (
    Block,
    Gallery,
    Heading,
    LineChart,
    Paragraph,
    Row,
    ShareChart,
    Table,
    join_tables,
)
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import checkpoint_of, optimum_of
from memaudit.audit.statistics.intervals import Estimate
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.execution import Execution
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

CONFIG = ScanConfig(seeds=range(4), sampler=SamplerConfig(num_steps=3), fail_above=0.5)
REQUESTED = {"noise_and_return", "membership", "exposure"}
AGAINST_HOLDOUT = {"holdout", "label_test", "blind_baseline", "discoveries", "copying"}
COMPUTED_AGAIN = {"richness", "groups", "classes", "worst_class", "discoveries"}


def image_set(num_images: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_images, 1, 4, 4), dtype=np.uint8)
    names = [f"{seed}/{i}" for i in range(num_images)]
    whole = ImageSet(images, names, source=f"set {seed}", labels=np.arange(num_images) % 2)
    first = 1 if seed == 0 else 0  # two training images are of one group
    return whole.grouped([f"{seed}/{max(first, i)}" for i in range(num_images)])


TRAIN, HOLDOUT, GENERATED = image_set(12, 0), image_set(100, 1), image_set(5, 2)


class Untouched(ClosedFormOptimum):
    """A model that must not be asked."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was sampled")


def ran(result: ScanResult) -> set[str]:
    return {name for name, _, _ in result.diagnostics.results()}


def scan_optimum(*, holdout: ImageSet | None = None, **config: Any) -> ScanResult:
    model = optimum_of(TRAIN, conditional=True)
    return scan(model, TRAIN, holdout=holdout, config=replace(CONFIG, **config))


# ------------------------------------------------------------------------------------------------
# Names


def test_each_diagnostic_is_a_field_of_the_results():
    assert list(DIAGNOSTICS) == [field.name for field in fields(Diagnostics)]
    assert {name for name, diagnostic in DIAGNOSTICS.items() if diagnostic.by_request} == REQUESTED
    for name, diagnostic in DIAGNOSTICS.items():
        assert diagnostic.about.endswith((".", "?")), name
        assert getattr(Diagnostics(), name) is None


@pytest.mark.parametrize("field", ["also", "without"])
def test_a_name_that_no_diagnostic_has_is_refused_before_anything_is_sampled(field: str):
    model = checkpoint_of(Untouched(TRAIN.images))
    with pytest.raises(ConfigError) as caught:
        scan(model, TRAIN, config=replace(CONFIG, **{field: ("optimality", "astrology", "tea")}))
    message = str(caught.value)
    assert f"{field} names 'astrology', 'tea'" in message and "'optimality'" not in message
    for name in DIAGNOSTICS:
        assert name in message
    assert caught.value.fields == (field,)


def test_a_name_may_be_written_with_hyphens():
    assert ScanConfig(also=("noise-and-return",)).also == ("noise_and_return",)
    assert "noise_and_return" in ran(scan_optimum(also=("noise-and-return",)))


# ------------------------------------------------------------------------------------------------
# Which of them run


OF_PIXELS = set(DIAGNOSTICS) - {"feature_similarity"}
"""Those that may run where no encoder is used."""


def test_all_run_where_everything_is_given_and_asked_for():
    assert ran(scan_optimum(holdout=HOLDOUT, also=tuple(REQUESTED))) == OF_PIXELS


def test_what_costs_much_runs_by_request_only():
    assert ran(scan_optimum(holdout=HOLDOUT)) == OF_PIXELS - REQUESTED
    one = ran(scan_optimum(holdout=HOLDOUT, also=("membership",)))
    assert one == OF_PIXELS - REQUESTED | {"membership"}


def test_what_would_run_anyhow_may_be_asked_for():
    assert "optimality" in ran(scan_optimum(also=("optimality",)))


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_each_can_be_left_out(name: str):
    also = {"noise_and_return"} - {name}
    result = scan_optimum(holdout=HOLDOUT, also=tuple(also), without=(name,))
    assert ran(result) == OF_PIXELS - REQUESTED - {name} | also
    assert getattr(result.diagnostics, name) is None


def test_what_is_asked_for_and_left_out_at_once_is_refused():
    with pytest.raises(ConfigError, match="also and without both name 'membership'"):
        replace(CONFIG, also=("membership",), without=("membership",))


def test_without_held_out_images_a_model_or_classes_what_needs_them_does_not_run():
    assert ran(scan_optimum()) == OF_PIXELS - REQUESTED - AGAINST_HOLDOUT
    given = ImageSet(GENERATED.images, list(GENERATED.names), source="generated")
    assert ran(scan(given, TRAIN)) == {"recall", "authentic", "richness", "repeats", "groups"}
    assert ran(scan(given, TRAIN, holdout=HOLDOUT)) == {
        "groups",
        "recall",
        "authentic",
        "richness",
        "repeats",
        *AGAINST_HOLDOUT,
    }
    plain = replace(TRAIN, groups_from=None)
    assert ran(scan(GENERATED, plain)) == {
        "recall",
        "authentic",
        "richness",
        "classes",
        "repeats",
    }


def test_a_check_that_fails_stops_a_scan_before_it_samples():
    model = checkpoint_of(Untouched(TRAIN.images))
    membership = replace(CONFIG, also=("membership",))
    with pytest.raises(ConfigError, match="compares training images with held-out ones"):
        scan(model, TRAIN, config=membership)
    with pytest.raises(ConfigError, match="needs at least 100 held-out images"):
        scan(model, TRAIN, holdout=image_set(20, 3), config=membership)
    with pytest.raises(ConfigError, match="needs a model, but images were given"):
        scan(GENERATED, TRAIN, holdout=HOLDOUT, config=membership)
    with pytest.raises(ConfigError, match="needs a model, but images were given"):
        scan(GENERATED, TRAIN, config=replace(CONFIG, also=("noise-and-return",)))
    with pytest.raises(DataError, match="occur in the training set"):
        scan(model, TRAIN, holdout=TRAIN)
    # The floor may be left out, and C_T needs images that the model does not know all the same.
    with pytest.raises(DataError, match="occur in the training set"):
        scan(model, TRAIN, holdout=TRAIN, config=replace(CONFIG, without=("holdout",)))


# ------------------------------------------------------------------------------------------------
# The machinery, with diagnostics made up


def context_of(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Context:
    """What a scan of the optimum hands to its diagnostics."""
    caught: list[Context] = []

    def catch(context: Context, **options: Any) -> Diagnostics:
        caught.append(context)
        return Diagnostics()

    with monkeypatch.context() as patch:
        patch.setattr("memaudit.audit.scan.run_diagnostics", catch)
        scan_optimum(holdout=HOLDOUT)
    (context,) = caught
    assert context.images is not None
    setting = replace(context.setting, **changes)
    return replace(context, images=replace(context.images, setting=setting))


def counting(requires: Iterable[Need], calls: list[Context], **more: Any) -> Diagnostic[int]:
    def run(context: Context) -> int:
        calls.append(context)
        return len(calls)

    def section(result: int, page: PageContext) -> Iterable[Block]:
        yield Paragraph(str(result))

    return Diagnostic("Made up", frozenset(requires), run, section, **more)


def test_every_need_keeps_a_diagnostic_from_running_where_it_is_not_met(
    monkeypatch: pytest.MonkeyPatch,
):
    whole = context_of(monkeypatch)
    assert whole.images is not None

    class Rounded:
        exact = False
        rules = ()

    lacking: dict[Need, Context] = {
        "images": replace(whole, images=None),
        "model": context_of(monkeypatch, model=None),
        "pixels": replace(whole, images=replace(whole.images, index=Rounded())),  # type: ignore
        "holdout": context_of(monkeypatch, holdout=None),
        "classes": replace(whole, class_index=None),
        "conformal": replace(whole, conformal=None),
    }
    for need, context in lacking.items():
        diagnostic = counting([need], [])
        assert diagnostic.is_possible(whole)
        assert not diagnostic.is_possible(context), need
        assert diagnostic.follows_from_matches == (need in ("classes", "conformal"))
        assert counting([], []).is_possible(context)
    assert counting(lacking, []).is_possible(whole)


def test_what_a_diagnostic_takes_without_requiring_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
):
    context = context_of(monkeypatch, model=None, holdout=None)
    takes: dict[str, Callable[[Context], Any]] = {
        "model": lambda context: context.setting.given_model,
        "holdout": lambda context: context.setting.given_holdout,
        "images": lambda context: replace(context, images=None).given_images,
        "conformal": lambda context: replace(context, conformal=None).given_conformal,
    }
    for need, take in takes.items():
        with pytest.raises(RuntimeError, match=f"must list `{need}` in what it requires"):
            take(context)


def test_the_index_of_pixels_is_opened_once_and_held_out_images_are_searched_once(
    monkeypatch: pytest.MonkeyPatch,
):
    context = context_of(monkeypatch)
    assert context.setting.open_index() is context.setting.open_index()
    assert context.given_images.holdout_matches is context.given_images.holdout_matches


def test_each_result_is_told_as_it_is_there(monkeypatch: pytest.MonkeyPatch):
    context = context_of(monkeypatch)
    names: list[str] = []
    found = run_diagnostics(context, on_done=names.append)
    assert names == [name for name in DIAGNOSTICS if name in OF_PIXELS - REQUESTED]
    assert [name for name, _, _ in found.results()] == names


def test_a_new_line_of_the_table_is_enough(monkeypatch: pytest.MonkeyPatch):
    calls: list[Context] = []
    table = {
        "richness": counting([], calls),
        "holdout": counting(["images", "holdout"], calls),
        "membership": counting(["images"], calls, by_request=True),
    }
    monkeypatch.setattr(registry, "DIAGNOSTICS", table)
    context = context_of(monkeypatch)
    found = run_diagnostics(context)
    assert (found.richness, found.holdout, found.membership) == (1, 2, None)
    calls.clear()
    assert recompute(replace(context, images=None)) == {"richness": 1}
    assert len(calls) == 1


def test_evidence_from_sets_that_differ_by_themselves_does_not_count():
    estimate = Estimate(0.9, 0.8, 1.0)
    c_t = CopyingStatistic(value=-9.0, spread=1.0, z=-9.0, p_value=1e-19, cells=())
    alike = BlindBaseline(100, 100, Estimate(0.5, 0.4, 0.6), 0.95, differs=False)
    unlike = BlindBaseline(100, 100, estimate, 0.95, differs=True)
    clause = (
        "generated images are closer to the training images than held-out ones are (C_T z = -9.0)"
    )
    assert Diagnostics(copying=c_t).evidence(0.05) == (clause,)
    assert Diagnostics(copying=c_t, blind_baseline=alike).evidence(0.05) == (clause,)
    assert Diagnostics(copying=c_t, blind_baseline=unlike).evidence(0.05) == ()


def test_closeness_that_smooth_images_have_as_well_is_no_evidence():
    """Blurred new images: closer to the training images, and to the held-out ones just as much."""
    rng = np.random.default_rng(4)
    train, held, fresh = (
        np.kron(rng.integers(60, 196, (80, 1, 6, 6)), np.ones((1, 1, 2, 2), int))
        + rng.integers(-40, 41, (80, 1, 12, 12))
        for _ in range(3)
    )
    blurred = sum(np.roll(fresh, shift, (2, 3)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))) // 4
    copies = train + rng.integers(-6, 7, train.shape)
    config = replace(CONFIG, fail_above=None)

    def scanned(generated: np.ndarray, *without: str) -> ScanResult:
        given, data, holdout = (
            ImageSet.from_array(images.astype(np.uint8)) for images in (generated, train, held)
        )
        return scan(given, data, holdout=holdout, config=replace(config, without=without))

    smooth = scanned(blurred).diagnostics
    assert smooth.copying is not None and smooth.copying.z < -5
    assert smooth.label_test is not None and smooth.label_test.p_any > 0.05
    assert smooth.evidence(0.05) == ()
    assert not scanned(blurred).conclusion.is_contradicted
    assert "C_T" in "".join(scanned(blurred, "label_test").conclusion.evidence)
    copied = scanned(copies).diagnostics
    label, c_t = copied.evidence(0.05)
    assert "label test" in label and "C_T" in c_t
    # Less than the label test can show, which confirms what C_T shows by itself.
    assert copied.evidence(0.0005) == (c_t,) and smooth.evidence(0.0005) == ()


def test_a_check_is_asked_only_where_the_diagnostic_is_wanted(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def note(name: str) -> Callable[[Setting], None]:
        return lambda setting: asked.append(name)

    table = {
        name: counting([], [], by_request=name in REQUESTED, check=note(name))
        for name in DIAGNOSTICS
    }
    monkeypatch.setattr(registry, "DIAGNOSTICS", table)
    setting = context_of(monkeypatch).setting
    asked.clear()
    config = replace(CONFIG, also=("membership",), without=("holdout",))
    registry.check_diagnostics(replace(setting, config=config))
    assert set(asked) == set(DIAGNOSTICS) - {"noise_and_return", "exposure", "holdout"}


# ------------------------------------------------------------------------------------------------
# What follows from the matches, and what is shown


def test_what_follows_from_the_matches_is_computed_again(whole_result: ScanResult):
    assert {
        name for name, diagnostic in DIAGNOSTICS.items() if diagnostic.follows_from_matches
    } == COMPUTED_AGAIN
    context = Context(
        matches=whole_result.matches,
        findings=whole_result.findings,
        class_index=whole_result.class_index,
        num_train=len(whole_result.data),
        fail_above=whole_result.config.fail_above,
        conformal=whole_result.conformal,
        num_groups=whole_result.data.num_groups,
        fail_above_groups=whole_result.config.fail_above_groups,
    )
    again = recompute(context)
    assert again == {name: getattr(whole_result.diagnostics, name) for name in COMPUTED_AGAIN}
    assert recompute(replace(context, class_index=None)).keys() == {
        "richness",
        "groups",
        "discoveries",
    }
    assert recompute(replace(context, conformal=None, num_groups=None)).keys() == {
        "richness",
        "classes",
        "worst_class",
    }


def test_every_result_has_something_to_show_and_to_say(whole_result: ScanResult):
    kinds = (Paragraph, Heading, Table, LineChart, ShareChart, Gallery)
    shown = {}
    for name, diagnostic, result in whole_result.diagnostics.results():
        blocks = list(diagnostic.section(result, whole_result.page_context))
        assert blocks and all(isinstance(block, kinds) for block in blocks)
        for block in blocks:
            if isinstance(block, Table):
                assert block.rows
                assert {len(row.cells) + 1 for row in block.rows} == {len(block.columns)}
        shown[name] = blocks
        for line in diagnostic.lines(result):
            assert isinstance(line, Table) or line.endswith(".")
    assert shown.keys() == OF_PIXELS


def test_timings_name_the_diagnostics_that_ran(whole_result: ScanResult):
    steps = {step.step for step in whole_result.timings.steps}
    assert steps >= OF_PIXELS


def test_options_of_a_scan_reach_its_diagnostics():
    result = scan_optimum(
        seeds=range(6),
        optimum_images=5,
        optimum_trajectories=3,
        execution=Execution(batch_size=2),
        class_index=1,
    )
    found = result.diagnostics.optimality
    assert found is not None
    assert (found.num_train, found.num_trajectories) == (5, 3)
    assert len(found.at_sigma) == 3
    assert Path(result.source.path) == Path("optimum")


def test_tables_of_a_section_are_joined_across_remarks_only():
    def table(label: str, *columns: str) -> Table:
        return Table(columns, (Row(label, ("1",)),))

    text, remark = Paragraph("text"), Paragraph("remark", is_small=True)
    one, two, other = table("a", "x", "y"), table("b", "x", "y"), table("c", "x", "z")
    both = Table(("x", "y"), one.rows + two.rows)
    assert join_tables([one, two]) == [both]
    assert join_tables([text, one, remark, two, other]) == [text, both, remark, other]
    assert join_tables([one, text, two]) == [one, text, two]
    assert join_tables([remark, one]) == [remark, one]
    assert join_tables([]) == []


def test_all_controls_are_one_table(whole_result: ScanResult):
    blocks: list[Block] = []
    for _, diagnostic, result in whole_result.diagnostics.results():
        if diagnostic.title == "Controls":
            blocks += diagnostic.section(result, whole_result.page_context)
    _, table, remark = join_tables(blocks)
    assert isinstance(table, Table) and isinstance(remark, Paragraph)
    assert [row.label for row in table.rows] == [
        "Floor: held-out images counted",
        "Floor by the published rule",
        "Excess over the floor",
        "Blind baseline, AUC",
        "Copies at a false-discovery rate of 5 %",
        "C_T",
        "AuthPct",
    ]
    assert table.columns == ("Measure", "Value", "95 % interval")
