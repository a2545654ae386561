"""The card of the base: read and written in one place, refused in one line."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.common import base_card
from pipeline.common.base_card import BaseCard
from pipeline.runtime.errors import ArtifactError

CARD = BaseCard("tiny", None, "ab" * 32, 288, "cd" * 32, 1, [2], 286, 287)


def test_a_card_is_read_as_it_was_written(tmp_path: Path):
    base_card.write_card(CARD, tmp_path)
    assert base_card.read_card(tmp_path) == CARD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "base.json: no such file; run `dvc repro base` first"),
        ("{", "base.json: not valid JSON .*; delete it and run `dvc repro base`"),
        ('{"source": "x"}', "base.json: .*sha256: Field required; .*; run `dvc repro -f base`"),
        ("[]", "base.json: .*; run `dvc repro -f base`"),
        (json.dumps(asdict(CARD) | {"eos_ids": []}), "base.json: eos_ids: .*at least 1 item"),
        (json.dumps(asdict(CARD) | {"chat_head": True}), "base.json: chat_head: .*valid string"),
    ],
)
def test_a_missing_or_broken_card_is_one_line(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / base_card.CARD).write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        base_card.read_card(tmp_path)
    assert "\n" not in str(caught.value)
