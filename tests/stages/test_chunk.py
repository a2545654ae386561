"""Stage chunk: the chunks of a document follow each other, and joined they are its text."""

import shutil

import pytest

from pipeline.common import tables
from pipeline.runtime.errors import ArtifactError
from pipeline.stages import chunk
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "words: 200" in text
    (tmp_path / "params.yaml").write_text(text.replace("words: 200", "words: 4"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TEXTS = {
    "long": " One two three. Four five.\n\nSix seven eight nine ten eleven. 🦊\n",
    "whole": "One two three. Four five six.",
    "short": "One.",
}


def write_documents():
    rows = [
        {"document_id": name, "title": name.title(), "text": text, "whole": name == "whole"}
        for name, text in TEXTS.items()
    ]
    tables.write(tables.DOCUMENTS, rows)


def test_chunks_give_the_documents_back(project, capsys):
    write_documents()
    chunk.main()
    rows = list(tables.scan(tables.CHUNKS))
    for name, text in TEXTS.items():
        mine = [row for row in rows if row["document_id"] == name]
        assert "".join(row["text"] for row in mine) == text
        assert [row["chunk_id"] for row in mine] == [f"{name}#{index}" for index in range(len(mine))]
        assert [row["index"] for row in mine] == list(range(len(mine)))
        assert all(text[row["start"] : row["end"]] == row["text"] for row in mine)
        assert {row["title"] for row in mine} == {name.title()}
    assert [row["document_id"] for row in rows] == ["long"] * 4 + ["whole", "short"]
    assert capsys.readouterr().out == (
        "chunk: 3 documents in 6 chunks, 3 words on average, 6 at most; 2 documents in one chunk\n"
    )


def test_the_same_documents_give_the_same_bytes(project):
    write_documents()
    chunk.main()
    first = tables.CHUNKS.path.read_bytes()
    chunk.main()
    assert tables.CHUNKS.path.read_bytes() == first


def test_missing_documents_name_the_stage_that_makes_them(project):
    with pytest.raises(ArtifactError, match="run `dvc repro prepare` first"):
        chunk.main()
