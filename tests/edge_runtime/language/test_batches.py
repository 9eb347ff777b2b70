from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.language.text import batches

SIZES = st.dictionaries(
    st.integers(0, 50), st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)), max_size=30
)


@given(rooms=SIZES, most=st.integers(1, 8))
def test_every_prompt_is_in_one_batch_that_fits(rooms, most):
    found = list(batches(rooms, most))
    assert sorted(row for batch in found for row in batch) == sorted(rooms)
    for batch in found:
        prompts, answers = zip(*(rooms[row] for row in batch), strict=True)
        assert 1 <= len(batch) <= most
        assert len(set(answers)) == 1
        assert max(prompts) <= 2 * min(prompts)
        held = len(batch) * (max(prompts) + answers[0])
        assert len(batch) == 1 or held <= 32_768


def test_prompts_alike_in_length_share_a_batch():
    assert list(batches({0: (9, 4), 1: (5, 4), 2: (4, 4), 3: (5, 3)}, 8)) == [[3], [2, 1], [0]]
