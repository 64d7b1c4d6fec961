"""The contract for programs, as a running gateway serves it and as the command line writes it."""

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.documents import DOCUMENTS, Document, text_of
from protocol.asyncapi import asyncapi
from protocol.openapi import openapi
from protocol.schema import json_schema
from protocol.typescript import typescript
from tests.gateway.harness import Gateway

WRITTEN = {"openapi": openapi, "asyncapi": asyncapi, "json-schema": json_schema}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.format)
async def test_a_gateway_serves_the_contract(gateway: Gateway, document: Document) -> None:
    given = await gateway.http.get(f"/{document.file}")
    assert given.status_code == 200
    assert given.headers["content-type"].split(";")[0] == document.media_type
    assert given.headers["cache-control"] == "no-cache"
    if document.format == "typescript":
        assert given.text == typescript()
    else:
        assert given.json() == WRITTEN[document.format]()


def test_a_document_is_written_once() -> None:
    assert all(text_of(document) is text_of(document) for document in DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.format)
def test_one_format_is_printed(document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", document.format]) == 0
    assert capsys.readouterr().out.encode() == text_of(document)


def test_all_formats_are_written_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    assert main(["schema", "--out", str(out)]) == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        document.file: text_of(document) for document in DOCUMENTS
    }
    assert capsys.readouterr().out.splitlines() == [str(out / each.file) for each in DOCUMENTS]


def test_one_format_is_written_into_a_folder(tmp_path: Path) -> None:
    assert main(["schema", "asyncapi", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "asyncapi.json").read_text()) == asyncapi()
    assert [file.name for file in tmp_path.iterdir()] == ["asyncapi.json"]


def test_many_formats_are_not_printed_one_after_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["schema"]) == 2
    assert "--out DIR" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_plain_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["schema", "all", "--out", str(tmp_path / "file")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"midm-gateway: cannot write into {tmp_path / 'file'}: ")
    assert "Traceback" not in told


def test_an_unknown_format_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schema", "xml"])
    assert ended.value.code == 2
    assert "json-schema" in capsys.readouterr().err
