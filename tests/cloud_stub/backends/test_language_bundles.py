"""What backends say of language models without a server before them."""

import numpy as np
import pytest
from tools.adding_decoder import Adder, write_adder
from tools.language_models import PROMPTS

from cloud_stub.backends.backend import Batch
from cloud_stub.backends.classifiers import BundleBackend, CascadeBackend
from cloud_stub.language.checkpoint import LanguageBackend
from edge_runtime.errors import BundleError

pytestmark = pytest.mark.slow


def test_an_answer_ends_at_any_end_of_the_model_and_does_not_say_it(save_tiny):
    from train.models.language import open_language_model, save_language_model

    folder, lm = save_tiny("chatty", 96)
    end = int(lm.generate(PROMPTS[:1], 9).tokens[0, 4])
    lm.model.generation_config.eos_token_id = [lm.tokenizer.eos_token_id, end]
    save_language_model(lm, folder)
    wanted = open_language_model(folder).generate(PROMPTS, 9)
    assert wanted.counted.sum(axis=1)[0] <= 5
    backend = LanguageBackend(folder, 1, kind="sum_logprob", max_new_tokens=9, max_rows=8)
    inputs = {"text": list(PROMPTS), "max_tokens": np.full(len(PROMPTS), 9)}
    *_, said = backend.infer(Batch(inputs, len(PROMPTS), np.inf))
    assert [text.decode() for text in said["text"]] == list(wanted.texts)
    np.testing.assert_allclose(said["confidence"], wanted.confidence("sum_logprob"), atol=1e-4)


@pytest.mark.parametrize("opened", [BundleBackend, CascadeBackend])
def test_a_language_models_bundle_is_no_classifier_to_serve(opened, tmp_path):
    folder = write_adder(tmp_path, Adder.saying("a"))
    options = {} if opened is BundleBackend else {"cloud": "localhost:1", "deadline_s": 1.0}
    with pytest.raises(BundleError, match=r"expected a classifier in .* got a decoder") as caught:
        opened(folder, 1, **options)
    assert "\n" not in str(caught.value)
