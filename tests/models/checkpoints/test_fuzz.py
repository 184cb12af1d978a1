"""Whatever happens to a file's bytes, it opens or is refused by name: nothing else."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers.beside_weights import BESIDE
from helpers.edm_pickles import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memaudit.errors import MemauditError
from memaudit.models.checkpoints import inspect_checkpoint, open_checkpoint, save_checkpoint

FORMATS = ("snapshot", "training state", "old training state", "native", "options beside")


@pytest.fixture
def contents(tmp_path, snapshot, network, as_persistent) -> dict[str, bytes]:
    """A valid file of every container."""
    net = {"net": as_persistent(network)}
    torch.save(net, tmp_path / "new.pt")
    torch.save(net, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_checkpoint(tmp_path / "native", network, TINY, provenance={"images_seen": 9})
    (tmp_path / "beside").write_bytes(pickle.dumps({"state_dict": network.state_dict()} | BESIDE))
    paths = (
        *(snapshot, tmp_path / "new.pt", tmp_path / "old.pt", tmp_path / "native"),
        tmp_path / "beside",
    )
    return {name: path.read_bytes() for name, path in zip(FORMATS, paths, strict=True)}


def open_or_refuse(path: Path, format: str) -> None:
    try:
        checkpoint = open_checkpoint(path, config=TINY if format == "options beside" else None)
    except MemauditError as error:
        assert str(path) in str(error)
        return
    json.dumps(checkpoint.provenance)  # Plain values only.
    assert all(p.isfinite().all() for p in checkpoint.network.parameters())


@pytest.mark.parametrize("format", FORMATS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_with_changed_bytes_opens_or_is_refused(tmp_path, contents, format, data):
    content = bytearray(contents[format])
    # Weights are most of a file: look where its structure is as often.
    place = st.one_of(st.integers(0, 3000), st.integers(0, len(content) - 1))
    for position, byte in data.draw(
        st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[position] = byte
    path = tmp_path / "changed"
    path.write_bytes(content)
    open_or_refuse(path, format)


@pytest.mark.parametrize("format", FORMATS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_short_or_spliced_opens_or_is_refused(tmp_path, contents, format, data):
    content = contents[format]
    cut = data.draw(st.integers(0, len(content)))
    again = data.draw(st.integers(0, len(content)))
    path = tmp_path / "changed"
    path.write_bytes(content[:cut] + (content[again:] if data.draw(st.booleans()) else b""))
    open_or_refuse(path, format)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_any_bytes_after_the_start_of_a_pickle_are_refused(tmp_path, content):
    path = tmp_path / "noise"
    path.write_bytes(b"\x80\x04" + content + b".")
    with pytest.raises(MemauditError):
        open_checkpoint(path)
    inspect_checkpoint(path)
