"""What is looked for is found in whatever case and normal form, and nothing else is."""

from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.matching import Words, folded

FOUND = [
    ("날씨", "오늘 날씨는 어때?"),
    ("씨", "오늘 날씨는 어때?"),
    ("날씨는 오늘", "오늘 날씨는 어때?"),
    ("weather", "WEATHER 예보"),
    ("ÉCOLE", "l'école"),
    ("STRASSE", "Hauptstraße"),
    ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
    ("날씨", normalize("NFD", "날씨는")),
    (normalize("NFD", "날씨"), "날씨는"),
    (normalize("NFD", "é"), "café"),
    ("👋🏽", "안녕 👋🏽!"),
    ("100%", "100% 확실"),
    ("a_b", "x a_b x"),
    ("c:\\dir", "in C:\\DIR"),
    ('"quoted"', 'a "quoted" word'),
    ("  날씨\u3000오늘\n", "오늘 날씨"),
    ("날씨 날씨", "날씨"),
]
NOT_FOUND = [
    ("날씨 내일", "오늘 날씨는 어때?"),
    ("하", "한국"),
    (normalize("NFD", "하"), normalize("NFD", "한국")),
    ("100%", "1000 확실"),
    ("a_b", "axb"),
    ("%", "무엇이든"),
    ("_", "무엇이든"),
    ("\\", "무엇이든"),
    ("'", "무엇이든"),
    ('"오늘 날씨"', "오늘 날씨"),
    ("날씨", ""),
]


@pytest.mark.parametrize(("query", "text"), FOUND)
def test_it_is_found(query: str, text: str) -> None:
    assert Words(query).are_in(text)


@pytest.mark.parametrize(("query", "text"), NOT_FOUND)
def test_it_is_not_found(query: str, text: str) -> None:
    assert not Words(query).are_in(text)


def by_the_book(text: str) -> str:
    """Fold a text as Unicode defines it, without short cuts."""
    return normalize("NFC", normalize("NFD", text).casefold())


@given(st.text() | st.text("ᾳᾴ\u0345\u0323\u0301αΑßİıǰ가ᄀ\u1161\u11a8e"))
@example("ᾳ\u0323")
@example("\u0345\u0301")
def test_folding_is_what_unicode_says(text: str) -> None:
    assert folded(text) == by_the_book(text)


@given(st.text())
def test_the_normal_form_of_a_text_makes_no_difference(text: str) -> None:
    assert {folded(normalize(form, text)) for form in ("NFC", "NFD")} == {folded(text)}


@given(st.text(st.characters(codec="utf-8")), st.data())
def test_a_piece_of_a_text_that_stands_for_itself_is_found(text: str, data: st.DataObject) -> None:
    whole = folded(text)
    start = data.draw(st.integers(0, len(whole)))
    piece = whole[start : data.draw(st.integers(start, len(whole)))]
    if folded(piece) == piece:
        assert Words(piece).are_in(text)
