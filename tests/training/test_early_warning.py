"""Audits of snapshots while a network trains."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.tiny_training import TINY, noise_images

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.experiments.config import EarlyWarningConfig
from memaudit.experiments.early_warning import EarlyWarning, SnapshotAudit
from memaudit.training.config import TrainingConfig
from memaudit.training.loop import train
from memaudit.training.schedule import Schedule

CONFIG = dataclasses.replace(
    TINY,
    dropout=0.0,
    lr=1e-2,
    batch_size=16,
    duration_images=16 * 200,
    snapshot_images=16 * 150,
)


def early_warning(
    images: ImageSet, config: TrainingConfig, audits: list[SnapshotAudit], every: int = 1
) -> EarlyWarning:
    schedule = Schedule(config, len(images))
    audited = EarlyWarningConfig(every=every, num_samples=20)
    return EarlyWarning(images, schedule, audited, on_audit=audits.append)


def test_a_network_that_learns_its_images_by_heart_is_noticed_once(tmp_path: Path):
    """An untrained network copies neither of two images; after 1,600 epochs it only copies."""
    images, audits = noise_images(2), []
    short = dataclasses.replace(CONFIG, duration_images=16 * 150)
    begin = dataclasses.replace(short, snapshot_images=16)
    train(
        images,
        dataclasses.replace(begin, duration_images=16),
        out=tmp_path,
        on_snapshot=early_warning(images, begin, audits),
    )
    for config in (short, CONFIG):
        result = train(
            images,
            config,
            out=tmp_path,
            resume=True,
            on_snapshot=early_warning(images, config, audits),
        )
    assert audits[0].copies.low < 0.01 and not audits[0].begins
    assert audits[-1].copies.ratio > 0.5
    assert sum(audit.begins for audit in audits) == 1

    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line.pop("kind") == "audit"]
    assert logged == [dataclasses.asdict(entry) for entry in result.audits]
    assert [(a.epochs, a.copies.count, a.copies.low, a.copies.high) for a in audits] == [
        (line["epochs"], line["count"], line["low"], line["high"]) for line in logged
    ]


def test_every_nth_snapshot_and_the_last_are_audited(tmp_path: Path):
    images: ImageSet = noise_images(2)
    audits: list[SnapshotAudit] = []
    config = dataclasses.replace(CONFIG, duration_images=16 * 5, snapshot_images=16)
    train(images, config, out=tmp_path, on_snapshot=early_warning(images, config, audits, every=2))
    assert [audit.epochs for audit in audits] == [16.0, 32.0, 40.0]


def test_audits_leave_the_training_as_it_is(tmp_path: Path):
    images = noise_images(2)
    config = dataclasses.replace(CONFIG, dropout=0.1, duration_images=16 * 4, snapshot_images=16)
    plain = train(images, config, out=tmp_path / "plain")
    audited = train(
        images, config, out=tmp_path / "audited", on_snapshot=early_warning(images, config, [])
    )
    assert plain.model.read_bytes() == audited.model.read_bytes()


def test_what_cannot_be_audited_is_refused_before_training():
    with pytest.raises(ConfigError, match="needs at least 2 training images"):
        EarlyWarning(noise_images(1), Schedule(CONFIG, 1), EarlyWarningConfig(every=1))
    with pytest.raises(ConfigError, match="every is 0; at least 1 is needed"):
        EarlyWarningConfig(every=0)
