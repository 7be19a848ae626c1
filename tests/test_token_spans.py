"""Each part of a text has at least the tokens that hold a character of it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.initialization.token_spans import token_spans

BOS = -1


def pairs(text: str) -> list[int]:
    """A token two characters: the tokens of a part need not be those of the whole."""
    codes = text.encode("utf-16-be")
    return [BOS, *(int.from_bytes(codes[at : at + 4]) for at in range(0, len(codes), 4))]


def characters(text: str) -> list[int]:
    return [BOS, *map(ord, text)]


parts = st.lists(st.text("abc\n", min_size=1, max_size=7), min_size=1, max_size=5)


@given(parts, st.text("xy", max_size=3), st.integers(1, 30))
def test_no_character_of_a_part_is_missed(given: list[str], before: str, most: int) -> None:
    text = before + "".join(given)
    starts = [len(before + "".join(given[:i])) for i in range(len(given))]
    found = token_spans(text, starts, pairs, most)
    exact = token_spans(text, starts, characters, most)
    assert found is not None
    assert exact is not None
    for number, (start, part) in enumerate(zip(starts, given, strict=True)):
        within = range(start, start + len(part))
        wanted = [token for at in within if (token := 1 + at // 2) < most]
        if wanted:
            assert found[number][0] <= wanted[0]
            assert found[number][1] > wanted[-1]
        tokens = [token for at in within if (token := 1 + at) < most]
        if tokens:
            assert exact[number] == (tokens[0], tokens[-1] + 1)
    # What begins a text is nobody's.
    assert all(first >= 1 for first, _ in [*found, *exact])
    assert token_spans(text, [*starts[:-1], None], characters, 99) is None
