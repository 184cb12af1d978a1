"""A CI accepts only the audit that was agreed on."""

import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from memaudit.audit.report.folder import write_report
from memaudit.audit.report.schema import Report, make_report
from memaudit.audit.result import ScanResult
from memaudit.audit.verification.policy import Policy, as_policy, check_policy, read_policy
from memaudit.audit.verification.verify import verify_report
from memaudit.cli.main import cli
from memaudit.data.preparation import Preparation
from memaudit.errors import ConfigError
from memaudit.models.sampler_config import SamplerConfig

Make = Callable[..., ScanResult]
LENIENT = {
    "gate": {"limit": "50%", "verdicts": ["PASS", "FAIL", "INCONCLUSIVE"]},
    "sampling": {"first_seed": 100},
}


@pytest.fixture(scope="module")
def report(make_result: Make) -> Report:
    """A scan of 60 images, with seeds from 100 on."""
    return make_report(make_result(sampled=True, fail_above=0.5))


def violated(policy: dict[str, Any], report: Report) -> list[str]:
    checks = check_policy(as_policy(policy), report)
    return [check.name.removeprefix("policy ") for check in checks if not check.passed]


def merged(change: dict[str, Any]) -> dict[str, Any]:
    tables = {
        key: {**LENIENT.get(key, {}), **value}
        for key, value in change.items()
        if isinstance(value, dict)
    }
    return {**LENIENT, **change, **tables}


def test_an_audit_as_agreed_is_accepted(report: Report):
    assert violated(LENIENT, report) == []


def test_sampling_that_was_agreed_on_is_not_met_by_given_images(make_result: Make):
    images = make_report(make_result(fail_above=0.5))
    plain = {"gate": LENIENT["gate"]}
    assert violated(plain, images) == []
    for agreed in (
        {"sampling": {"seeds": "nonce", "nonce": "release 7"}},
        {"sampling": {"first_seed": 100}},
        {"sampler": {"num_steps": 36}},
    ):
        assert violated({**plain, **agreed}, images) == ["sampling"]


VIOLATED: dict[str, dict[str, Any]] = {
    "gate.limit": {"gate": {"limit": 0.499}},
    "gate.confidence": {"gate": {"confidence": 0.99}},
    "gate.least_samples": {"gate": {"least_samples": 61}},
    "gate.verdicts": {"gate": {"verdicts": ["FAIL"]}},
    "gate.fail_on": {"gate": {"fail_on": ["label-test"]}},
    "rule.threshold": {"rule": {"threshold": "1/2"}},
    "rule.duplicate_rms": {"rule": {"duplicate_rms": 4}},
    "rule.flips": {"rule": {"flips": True}},
    "source.kind": {"source": {"kind": "images"}},
    "source.sha256": {"source": {"sha256": "1" * 64}},
    "source.trained_on_data": {"source": {"trained_on_data": True}},
    "sampling.seeds": {"sampling": {"first_seed": 0}},
    "sampling.class_index": {"sampling": {"class_index": 3}},
    "sampling.class_frequencies": {"sampling": {"class_frequencies": "data"}},
    "sampler": {"sampler": {"num_steps": 40}},
    "data.fingerprint": {"data": {"fingerprint": "2" * 64}},
    "data.least_images": {"data": {"least_images": 61}},
    "data.split": {"data": {"split": "train"}},
    "data.labels_from": {"data": {"labels_from": "folder"}},
    "preparation": {"preparation": {"resolution": [4, 4]}},
    "holdout.required": {"holdout": {"required": True}},
    "holdout.fingerprint": {"holdout": {"fingerprint": "3" * 64}},
    "holdout.least_images": {"holdout": {"least_images": 2}},
    "memaudit": {"memaudit": ">=99"},
}


@pytest.mark.parametrize("clause", VIOLATED)
def test_each_clause_is_named_where_it_is_violated(report: Report, clause: str):
    found = violated(merged(VIOLATED[clause]), report)
    assert clause in found
    assert len(found) == 1 or clause == "holdout.required"


@pytest.mark.parametrize(
    ("sampled", "agreed", "accepts"),
    [
        ({"solver": "ddim", "num_steps": 50}, {}, True),
        ({"solver": "dopri5"}, {}, True),
        ({"solver": "euler", "num_steps": 100}, {"solver": "euler"}, True),
        ({"solver": "ddim", "num_steps": 1}, {}, False),
        ({"solver": "ddim", "num_steps": 1}, {"num_steps": 1}, True),
        ({"solver": "ancestral", "num_steps": 1000}, {}, False),
        ({"solver": "ancestral", "num_steps": 2}, {"solver": "ancestral"}, False),
        ({"solver": "ancestral", "num_steps": 9}, {"solver": "ancestral", "num_steps": 9}, True),
        ({"solver": "dopri5", "sigma_max": 0.1}, {}, False),
        ({"solver": "dopri5", "guidance": 0.0}, {}, False),
    ],
)
def test_what_a_policy_leaves_open_of_a_models_own_sampler_is_its_default(
    report: Report, sampled: dict[str, Any], agreed: dict[str, Any], accepts: bool
):
    assert report.sampling is not None
    sampler = SamplerConfig(sampler="own", **sampled)
    changed = replace(report, sampling=replace(report.sampling, sampler=sampler))
    found = violated(merged({"sampler": {"sampler": "own", **agreed}}), changed)
    assert found == ([] if accepts else ["sampler"])


def test_what_a_scan_chose_must_be_agreed(report: Report):
    """The defaults of a policy are those of a plain audit."""
    assert report.sampling is not None

    def with_data(**values: Any) -> Report:
        return replace(report, data=replace(report.data, **values))

    changes: dict[str, Report] = {
        "sampler": replace(
            report,
            sampling=replace(
                report.sampling, sampler=replace(report.sampling.sampler, sigma_max=0.01)
            ),
        ),
        "sampling.kept_samples": replace(report, sampling=replace(report.sampling, num_kept=5)),
        "sampling.seeds": replace(
            report, sampling=replace(report.sampling, seeds="100-150,160-168")
        ),
        "without": replace(report, without=("recall",)),
        "data.part": replace(report, data=replace(report.data, indices="0-59")),
        "data.split": with_data(split="train", other_splits=("test",)),
        "data.labels_from": with_data(labels_from="prefix"),
        "preparation": with_data(preparation=Preparation(resolution=(8, 8), fit="adm")),
        "gate.limit": replace(report, fail_above=None),
        "rule.features": replace(report, space=replace(report.space, name="features")),
        "choices": replace(
            report,
            conclusion=replace(
                report.conclusion, choices=("first look of the gate after 1 images",)
            ),
        ),
    }
    for clause, changed in changes.items():
        assert violated(LENIENT, changed) == [clause]
    allowed = merged(
        {
            "sampling": {"kept_samples": True, "seeds": "any"},
            "sampler": {"sigma_max": 0.01},
            "without": ["recall"],
            "data": {"part": True, "split": "train", "labels_from": "prefix"},
            "preparation": {"resolution": [8, 8], "fit": "adm"},
            "rule": {"features": True},
            "choices": ["first look of the gate after 1 images"],
        }
    )
    for clause in changes:
        assert clause == "gate.limit" or clause not in violated(allowed, changes[clause])


def test_a_split_is_agreed_by_its_name_or_by_its_images(report: Report):
    def with_split(split: str | None, *others: str) -> Report:
        return replace(report, data=replace(report.data, split=split, other_splits=others))

    fingerprint = {"data": {"fingerprint": report.data.fingerprint}}
    assert violated(LENIENT, with_split("train")) == []  # there is no other
    for chosen in (with_split("train", "val"), with_split("all")):
        assert violated(LENIENT, chosen) == ["data.split"]
        assert violated(merged(fingerprint), chosen) == []
    wanted = merged({"data": {"split": "train"}})
    assert violated(wanted, with_split("train", "val")) == []
    for other in (with_split("val", "train"), with_split("all"), with_split(None)):
        assert violated(wanted, other) == ["data.split"]


def test_choices_of_images_are_covered_by_their_clauses(report: Report):
    words = (
        "images prepared: fit adm to 8 x 8, bicubic filter",
        "training images of the split train, not of test",
        "training images of all splits together",
        "labels from: prefix",
    )
    conclusion = replace(report.conclusion, choices=words)
    assert violated(LENIENT, replace(report, conclusion=conclusion)) == []


def test_seeds_of_the_agreed_nonce(report: Report):
    assert report.sampling is not None
    policy = merged({"sampling": {"seeds": "nonce", "nonce": "build 7"}})
    assert violated(policy, report) == ["sampling.seeds"]
    drawn = replace(report, sampling=replace(report.sampling, nonce="build 7"))
    assert violated(policy, drawn) == []
    assert violated(merged({"sampling": {"seeds": "nonce", "nonce": "build 8"}}), drawn) == [
        "sampling.seeds"
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "lacks gate.limit"),
        ("[gate]\nlimit = 0", "between 0 and 1"),
        ("[gate]\nlimit = 1.5", "between 0 and 1"),
        ("[gate]\nlimit = nan", "between 0 and 1"),
        ('[gate]\nlimit = "1e-999999999%"', "not a fraction"),
        ('[gate]\nlimit = "1/0"', "not a fraction"),
        ("[gate]\nlimit = true", "not a policy"),
        ('[gate]\nlimit = 0.1\nlimit_groups = ""', "gate.limit_groups"),
        ("[gate]\nlimit = 0.1\nlimit_groups = 0", "gate.limit_groups"),
        ("gate = 3", "gate is a table"),
        ("[gate]\nlimit = 0.1\nconfidnce = 0.9", "did you mean gate.confidence?"),
        ("[gates]\nlimit = 0.1", "did you mean gate?"),
        ("[gate]\nlimit = 0.1\n[sampler]\nxyz = 3", "there are sampler.num_steps"),
        ("[gate]\nlimit = 0.1\n[sampler]\nnum_steps = 0", "num_steps"),
        ("[gate]\nlimit = 0.1\n[sampler]\nsigma_min = 1e9", "sigma_min is 1e+09"),
        ("[gate]\nlimit = 0.1\nconfidence = 0.2", "at least 0.5"),
        ("[gate]\nlimit = 0.1\nverdicts = []", "name at least one"),
        ('[gate]\nlimit = 0.1\nverdicts = ["pass"]', "not a policy"),
        ('[gate]\nlimit = 0.1\nfail_on = ["label-tests"]', "did you mean label_test?"),
        ('without = ["recalls"]\n[gate]\nlimit = 0.1', "did you mean recall?"),
        ("[gate]\nlimit = 0.1\nleast_samples = -1", "not be below 0"),
        ("[gate]\nlimit = 0.1\nleast_samples = 1.5", "not a policy"),
        ('[gate]\nlimit = 0.1\n[data]\nfingerprint = "abc"', "64 digits"),
        ('[gate]\nlimit = 0.1\n[rule]\nthreshold = "2"', "between 0 and 1"),
        ("[gate]\nlimit = 0.1\n[rule]\nduplicate_rms = -3", "duplicate_rms"),
        ('memaudit = "new"\n[gate]\nlimit = 0.1', "write versions as"),
        ('[gate]\nlimit = 0.1\n[sampling]\nseeds = "nonce"', "no sampling.nonce"),
        ("[gate]\nlimit = 0.1\nlimit = 0.2", "not TOML"),
        ("limit", "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("a = " + "9" * 100_000, "not TOML"),
    ],
)
def test_a_malformed_policy_is_an_error(tmp_path: Path, content: str, says: str):
    path = tmp_path / "policy.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        read_policy(path)
    assert says in str(error.value) and len(str(error.value)) < 1000


def test_a_policy_is_a_regular_file(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.toml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_policy(path)
    (tmp_path / "latin.toml").write_bytes(b'memaudit = "\xff"')
    with pytest.raises(ConfigError, match="not TOML"):
        read_policy(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("text", "accepts"),
    [
        ("", True),
        (">=0.1", True),
        (">=0.1, <99", True),
        ("==99.0", False),
        (">=0.1, <0.1.1", False),
        ("!=99", True),
    ],
)
def test_versions(report: Report, text: str, accepts: bool):
    report = replace(report, environment=replace(report.environment, memaudit="0.2.0.dev1"))
    found = violated(merged({"memaudit": text}), report)
    assert found == ([] if accepts else ["memaudit"])


def test_verify_names_what_is_violated(make_result: Make, tmp_path: Path):
    write_report(make_result(fail_above=0.5), tmp_path / "report")
    path = tmp_path / "policy.toml"
    path.write_text("[gate]\nlimit = 0.001\nleast_samples = 3000\n")
    found = verify_report(tmp_path / "report", policy=path)
    names = [check.name for check in found.checks if not check.passed]
    assert {"policy gate.limit", "policy gate.least_samples"} <= set(names)
    assert all(name.startswith("policy ") for name in names)


def test_every_key_is_documented():
    documented = (Path(__file__).parents[3] / "docs/ci.md").read_text(encoding="utf-8")
    example = documented.split("```toml")[1].split("```")[0]
    content = tomllib.loads(example)
    as_policy(content)
    hints = get_type_hints(Policy)
    for field in fields(Policy):
        if field.name == "sampler":
            continue
        keys = [field.name]
        if is_dataclass(hints[field.name]):
            keys = [each.name for each in fields(hints[field.name])]
        assert field.name in content
        table = content[field.name] if isinstance(content[field.name], dict) else content
        assert [key for key in keys if key not in table] == []


KEYS = st.sampled_from(
    [
        "gate",
        "rule",
        "source",
        "sampling",
        "sampler",
        "data",
        "holdout",
        "preparation",
        "resolution",
        "window",
        "fit",
        "split",
        "memaudit",
        "without",
        "choices",
        "limit",
        "confidence",
        "least_samples",
        "verdicts",
        "fail_on",
        "threshold",
        "seeds",
        "nonce",
        "first_seed",
        "num_steps",
        "S_churn",
        "fingerprint",
        "required",
        "part",
        "odd",
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([0.1, "0.1%", "1/3", "PASS", "any", ">=1", "a" * 64, 10**400, "1/0"]),
        st.text(max_size=8),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
POLICIES = st.dictionaries(KEYS, VALUES, max_size=5)


def check_any_policy(content: dict[str, Any], report: Report) -> None:
    """Checks, or a ConfigError, and nothing else."""
    gate = content.get("gate")
    if isinstance(gate, dict):
        gate.setdefault("limit", 0.1)
    try:
        policy = as_policy(content)
    except ConfigError as error:
        assert len(str(error)) < 2000
        return
    assert len(list(check_policy(policy, report))) > 20


class Shown:
    """A report whose text is short: hypothesis writes it for every example."""

    def __init__(self, report: Report) -> None:
        self.report = report


@pytest.fixture(scope="module")
def shown(report: Report) -> Shown:
    return Shown(report)


@settings(deadline=None, max_examples=100)
@given(content=POLICIES)
def test_any_policy_is_one_or_an_error(shown: Shown, content: dict[str, Any]):
    check_any_policy(content, shown.report)


@pytest.mark.slow
def test_very_many_policies_are_one_or_an_error(report: Report):
    """100,000 of them: keys and values that exist, exchanged, and others."""
    random = Random(0)
    odd = (None, True, 0, -1, 3, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "0.1%", "1/3")
    odd += (
        "1/0",
        "PASS",
        "any",
        ">=1, <2",
        "a" * 64,
        "\x1b[2J",
        [],
        ["PASS"],
        ["recall"],
        {},
        [[]],
    )
    hints = get_type_hints(Policy)
    tables = {
        name: [field.name for field in fields(kind)] if is_dataclass(kind) else []
        for name, kind in hints.items()
    }
    for _ in range(100_000):
        content: dict[str, Any] = {"gate": {"limit": 0.1}}
        for name in random.sample(list(tables), random.randint(0, 3)):
            keys = [*tables[name], "odd"]
            content[name] = random.choice(odd)
            if tables[name] and random.random() < 0.9:
                chosen = random.sample(keys, random.randint(0, min(3, len(keys))))
                content[name] = {key: random.choice(odd) for key in chosen}
        check_any_policy(content, report)


def test_a_violated_policy_is_told_from_a_report_that_was_changed(
    make_result: Make, tmp_path: Path
):
    write_report(make_result(fail_above=0.5), tmp_path / "report")
    path = tmp_path / "policy.toml"
    path.write_text('[gate]\nlimit = 0.6\n[holdout]\nfingerprint = "' + 64 * "0" + '"\n')
    command = ["verify", str(tmp_path / "report"), "--policy", str(path)]
    found = CliRunner().invoke(cli, command)
    assert found.exit_code == 1
    assert "Do not accept this report: it violates" in found.stdout
    assert "None" not in found.stdout
    with open(tmp_path / "report" / "leaks.csv", "a", encoding="utf-8") as file:
        file.write("x")
    found = CliRunner().invoke(cli, command)
    assert "Do not trust this report:" in found.stdout
