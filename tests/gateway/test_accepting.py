"""What a client would rather have, of what there is."""

import pytest

from gateway.accepting import preferred

OFFERED = ("application/jsonl", "application/x-ndjson", "text/markdown")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/jsonl"),
        ("*/*", "application/jsonl"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "application/jsonl"),
        ("application/pdf", "application/jsonl"),
        ("text/markdown", "text/markdown"),
        ("Text/Markdown; charset=utf-8", "text/markdown"),
        ("text/*", "text/markdown"),
        ("*/*, text/markdown;q=0.5", "application/jsonl"),
        ("*/*;q=0.1, text/markdown", "text/markdown"),
        ("application/jsonl;q=0, */*", "application/x-ndjson"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/markdown;q=0.5, application/x-ndjson;q=0.6", "application/x-ndjson"),
        ("text/markdown;q=much", "application/jsonl"),
        (",;,=;q", "application/jsonl"),
    ],
)
def test_the_best_is_chosen_and_the_first_of_equals(accept: str, chosen: str) -> None:
    assert preferred(OFFERED, accept) == chosen
