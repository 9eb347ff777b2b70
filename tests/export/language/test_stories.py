"""`stories260K`, exported and decoded on the device, reproduces the published story."""

import pytest

from benchmarks.language.promises.story import PUBLISHED
from edge_runtime.language.decoder import Decoder
from export.commands.language import LanguageSettings
from train.language.settings import ConvertLanguageSettings

pytestmark = pytest.mark.slow


def test_the_bundle_continues_like_the_published_sample(real_data, tmp_path):
    weights = real_data / "weights" / "stories260k"
    ConvertLanguageSettings(
        weights=weights / "stories260K.bin",
        tokenizer=weights / "tok512.bin",
        out=tmp_path / "stories",
    ).run()
    LanguageSettings(
        checkpoint=tmp_path / "stories", threshold=-9.0, max_new_tokens=230, out=tmp_path / "bundle"
    ).run()
    opening = "Once upon a time, there was a little girl named Lily."
    (answer,) = Decoder.open(tmp_path / "bundle").generate([opening])
    story = opening + " " + answer.text.strip()
    assert len(story) > 500
    assert PUBLISHED.startswith(story) or story.startswith(PUBLISHED)
    assert not answer.defer
