"""What a user says about a network where its file does not."""

import pytest

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.given import ArchOption, Given
from memaudit.models.config_values import VALUES, Value
from memaudit.options import Range

OPTIONS = (
    ArchOption("num_heads", "its number of heads", Value(int, Range(at_least=1)), 4),
    ArchOption("data_at", "the time of its data", VALUES["data_at"]),
    ArchOption("rescale", "its time", Value(bool), False),
    ArchOption("order", "its order", Value(str, choices=("head", "qkv")), "head"),
    ArchOption("img_resolution", "its size", VALUES["img_resolution"], 32, is_told=False),
    ArchOption("beta_end", "its schedule's end", Value(float, Range(above=0)), None, is_told=False),
)
FAMILIES = {"ours": {"num_heads": 8}}


def resolved(arch, **found):
    given = Given.parse(arch)
    given.check("x.pt", OPTIONS, FAMILIES, takes_config=False)
    return given.resolve(OPTIONS, found, FAMILIES.get(given.name))


def test_file_then_user_then_family_then_default():
    facts = resolved("ours, data_at=1,rescale=on,beta_end=2e-2", order="qkv")
    assert {fact.name: (fact.value, fact.origin) for fact in facts.facts} == {
        "num_heads": (8, "default"),
        "data_at": (1, "user"),
        "rescale": (True, "user"),
        "order": ("qkv", "file"),
        "img_resolution": (32, "default"),
        "beta_end": (0.02, "user"),
    }
    assert facts["num_heads"] == 8
    said, assumed = facts.warnings
    assert "data_at = 1, rescale = on, beta_end = 0.02." in said
    assert "default of ours, since the file does not show it: num_heads = 8." in assumed

    facts = resolved("data_at=0")
    assert facts["num_heads"] == 4 and "beta_end" not in "".join(facts.warnings)
    everything = {"num_heads": 1, "data_at": 0, "rescale": False, "order": "qkv", "beta_end": 0.1}
    assert resolved(None, **everything).warnings == ()


def test_a_size_is_one_number_or_height_and_width():
    for text, size in (("16", 16), ("16x16", 16), ("16x24", (16, 24))):
        assert resolved(f"data_at=1,img_resolution={text}")["img_resolution"] == size
    for text in ("16x", "axb", "16x24x8", "0x8"):
        with pytest.raises(ConfigError, match="integer, .*, or a height and a width"):
            resolved(f"data_at=1,img_resolution={text}")


def test_what_repeats_the_file_is_taken_and_what_contradicts_it_refused():
    assert resolved("beta_end=0.02", data_at=1, beta_end=0.0199999996).facts[-1].origin == "file"
    with pytest.raises(ConfigError, match="num_heads is 8, but the file shows 4"):
        resolved("num_heads=8", data_at=1, num_heads=4)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("theirs", "There is no preset 'theirs'. The presets are ours"),
        ("cifar10-ddpmpp-edm", "takes no preset, but a name of ours"),
        ("ours,head=3", "no option 'head'; its options are num_heads, data_at"),
        ("ours,num_heads", "arch has 'num_heads'; a name and then option=value"),
        ("ours,num_heads=", "arch has 'num_heads='"),
        ("num_heads=1,num_heads=2", "each option once"),
        ("data_at=1,num_heads=0", "num_heads must be an integer, at least 1, got 0"),
        ("data_at=1,num_heads=many", "num_heads must be an integer, at least 1, got 'many'"),
        ("data_at=1,beta_end=nan", "beta_end must be a number, more than 0, got 'nan'"),
        ("data_at=1,rescale=maybe", "rescale must be true or false, got 'maybe'"),
        ("data_at=1,order=v", "order must be one of head, qkv, got 'v'"),
    ],
)
def test_what_a_format_does_not_take_is_refused(arch, message):
    with pytest.raises(ConfigError, match=message):
        resolved(arch)


def test_an_option_without_a_default_is_asked_for():
    with pytest.raises(CheckpointError, match=r"does not say the time of its data.*data_at="):
        resolved("num_heads=2")


def test_a_format_without_options_says_so():
    with pytest.raises(ConfigError, match="no option 'num_heads'; it has none"):
        Given.parse("num_heads=2").check("x.pt", (), {}, takes_config=True)
    with pytest.raises(ConfigError, match="no preset 'x', and x.pt says what it is"):
        Given.parse("x").check("x.pt", (), {}, takes_config=False)
