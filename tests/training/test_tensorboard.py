"""The log of a run in TensorBoard."""

import dataclasses
import sys
from pathlib import Path

import pytest
from helpers.tiny_training import TINY, noise_images

from memaudit.errors import ConfigError
from memaudit.training.loop import train
from memaudit.training.training_log import AuditEntry

CONFIG = dataclasses.replace(TINY, duration_images=16, num_snapshots=2)


def test_tensorboard_shows_the_numbers_of_the_log(tmp_path: Path):
    pytest.importorskip("tensorboard", reason='the extra "tensorboard" is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def audit(path: Path, images_seen: int) -> AuditEntry:
        return AuditEntry(images_seen, 1.0, 1, 4, 0.25, 0.006, 0.8, 0.95)

    result = train(noise_images(), CONFIG, out=tmp_path, on_snapshot=audit, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    def shown(name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(name)]

    assert shown("loss") == [(e.images_seen, pytest.approx(e.loss)) for e in result.log]
    assert shown("lr") == [(e.images_seen, pytest.approx(e.lr)) for e in result.log]
    assert shown("audit/ratio") == [(8, 0.25), (16, 0.25)]
    assert shown("audit/high") == [(8, pytest.approx(0.8)), (16, pytest.approx(0.8))]


def test_without_tensorboard_the_message_says_what_to_install_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        train(noise_images(), CONFIG, out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
