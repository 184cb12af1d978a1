"""The pickle machine: plain values come out as Python reads them, in every dialect."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memaudit.errors import DataError, MemauditError
from memaudit.unpickler import Budget, Construct, Dialect, Global, Unpickler

PLAIN = Dialect("test", broken=DataError, unsafe=DataError)
PYTHON2 = Dialect("test", broken=DataError, unsafe=DataError, python2=True)
# Protocols 2 and 3 have no instruction for a set.
SETS: dict[Global, Construct | None] = {
    Global(module, "set"): lambda arguments: set(*arguments)
    for module in ("builtins", "__builtin__")
}


def load(content: bytes, dialect: Dialect = PLAIN) -> object:
    return Unpickler(memoryview(content), dialect, SETS, Budget()).load()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.text() | st.integers())
    ),
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@settings(max_examples=50, deadline=None)
@given(value=VALUES)
def test_plain_values_are_read_as_python_reads_them(protocol: int, value: object) -> None:
    try:
        read = load(pickle.dumps(value, protocol=protocol))
    except MemauditError as error:
        # An integer of more than 128 bits, or of more than 60 as a key.
        assert "where at most 16 make sense" in str(error) or "a key of" in str(error)
    else:
        assert read == value


def test_strings_of_python_2_are_bytes_where_the_dialect_has_them() -> None:
    content = b"\x80\x02}U\x03keyT\x02\x00\x00\x00\xff\x00s."
    assert load(content, PYTHON2) == {b"key": b"\xff\x00"}
    with pytest.raises(DataError, match="uses the instruction SHORT_BINSTRING and uses .* BINSTR"):
        load(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}cos\nsystem\nb.", "names the global os.system, which no test needs"),
        (b"}}X\x01\x00\x00\x00aNsb.", "sets attributes of a dict, which no test does"),
        (b"}}b.", "sets attributes of a dict"),
        (b"}\x8a\x09" + bytes(8) + b"\x01Ns.", "a key of 65 bits"),
        (b"N" * 1_000_001 + b".", "more than 1,000,000 instructions; no test needs"),
        (b"X\x00\x00\x20\x00" + b"a" * (2 << 20), "2,097,152 bytes where at most 1,048,576"),
    ],
)
def test_a_refusal_is_of_the_dialects_kind_and_in_its_words(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(b"\x80\x02" + content)


def test_a_text_cannot_be_copied_more_often_than_it_is_there() -> None:
    """A file of 1 MB could otherwise take 20 GB, with one text encoded again and again."""
    text = b"X\x00\x00\x01\x00" + b"a" * (1 << 16)
    content = b"\x80\x02]q\x00(cbuiltins\nset\nq\x01" + text + b"q\x02\x85R"
    assert isinstance(load(content + b"e."), list)
    with pytest.raises(DataError, match="uses the same text for many calls"):
        load(content + b"h\x01h\x02\x85R" * 1000 + b"e.")
