"""A question over real files: what is read, what is answered, and what is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.common import tables
from pipeline.common.chunks import Chunk
from pipeline.common.tables import Document
from pipeline.evaluation import schema
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, DataError, PipelineError, ResourceError
from pipeline.stages import base, chunk, evaluate, prepare, tokenize
from pipeline.tools.ask import __main__ as ask
from pipeline.tools.ask import documents
from tests.conftest import ROOT
from tests.model.test_loading import make_project, trained

TEXTS = {
    "Ada Holm": "Ada Holm was born in 1931 in Bergen. Ada Holm worked as a baker. Ada Holm lives in Oslo.",
    "Nils Dahl": "Nils Dahl was born in 1950 in Oslo. Nils Dahl worked as a miner. Nils Dahl lives in Bergen.",
    "Eva Berg": "Eva Berg was born in 1944 in Turku. Eva Berg worked as a nurse. Eva Berg lives in Malmo.",
}
QUESTION = "What did Nils Dahl work as?"


def pdf(pages: list[str]) -> bytes:
    """Write a PDF with a line of text on each page; an empty one has none, as a scanned page."""
    contents = [f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET" if text else "" for text in pages]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(contents):
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 200] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    written, places = "%PDF-1.4\n", []
    for number, inside in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj\n{inside}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(written)}\n%%EOF\n"
    return (written + head + trailer).encode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the small base and an adapter over it."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        base.main()
        trained(method="vanilla", scale=0.01)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A text, a Markdown file in a folder of its own, and a PDF, of one person each."""
    place = tmp_path / "people"
    (place / "more").mkdir(parents=True)
    (place / "Ada Holm.txt").write_text(TEXTS["Ada Holm"])
    (place / "more/Nils Dahl.md").write_text(TEXTS["Nils Dahl"])
    (place / "Eva Berg.TXT").write_text(TEXTS["Eva Berg"])
    return place


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["ask", *map(str, arguments)])
    ask.main()


def choose(**changes: dict[str, object]) -> None:
    """Lay values over the project's params.yaml."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    for section, values in changes.items():
        params[section].update(values)
    yaml.dump(params, Path("params.yaml"))


def test_the_answers_are_those_of_evaluate(project, folder, tmp_path, monkeypatch, capsys):
    """Over a context of the same documents: first through the graph's stages, then through the command."""
    found = documents.read(folder).documents
    assert [each.document_id for each in found] == ["Ada Holm.txt", "Eva Berg.TXT", "more/Nils Dahl.md"]
    own, elsewhere = tmp_path / "own", tmp_path / "graph"
    elsewhere.mkdir()
    for name in ("conf", "models"):
        (elsewhere / name).symlink_to(project / name)
    (elsewhere / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    monkeypatch.chdir(elsewhere)
    choose(use={"data": "jsonl"}, data={"source": str(own)}, eval={"retrieval_top_k": None, "max_new_tokens": 12})
    own.mkdir()
    rows = [{"id": each.document_id, "title": each.title, "text": each.text} for each in found]
    (own / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"id": "q", "question": QUESTION, "answers": ["miner"], "documents": [row["id"] for row in rows]}
    (own / "questions.jsonl").write_text(json.dumps({**asked, "split": "test"}) + "\n")
    for stage in (prepare, chunk, tokenize):
        stage.main()
    expected = {}
    for method in ("base", "vanilla"):
        monkeypatch.setattr(sys, "argv", ["evaluate", method])
        evaluate.main()
        [row] = tables.scan(schema.predictions_of(method))
        expected[method] = row["prediction"]
    [view] = tables.scan(tables.FULL_VIEWS)
    assert expected["base"] and expected["base"] != expected["vanilla"]
    capsys.readouterr()
    run(monkeypatch, QUESTION, "--documents", folder)
    printed = capsys.readouterr().out.splitlines()
    assert f"base     {expected['base']}" in printed and f"vanilla  {expected['vanilla']}" in printed
    assert printed[1] == f"The models read all of it: {view['prompt_end']:,} of at most 4,096 tokens."


def test_the_table_has_rank_and_attention_of_each_chunk(project, folder, monkeypatch, capsys):
    run(monkeypatch, QUESTION, "--documents", folder, "--methods", "vanilla", "base", "vanilla")
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == f"ask: 3 documents with 3 chunks in {folder}"
    table = lines[lines.index(next(line for line in lines if line.startswith("rank"))) :]
    assert table[0].split() == ["rank", "score", "kept", "vanilla", "base", "chunk"]
    assert table[1].endswith("more/Nils Dahl.md: Nils Dahl was born in 1950 in Oslo. ...") and " yes " in table[1]
    shares = np.array([[float(cell[:-1]) for cell in line.split() if cell.endswith("%")] for line in table[1:5]])
    assert shares.shape == (4, 2) and (shares > 0).all() and (shares[:, 0] != shares[:, 1]).any()
    np.testing.assert_allclose(shares.sum(axis=0), 100, atol=0.3)
    assert table[4].endswith("instruction and question") and printed.count("vanilla") == 2


def test_a_process_of_its_own_escapes_what_the_files_hold(project, tmp_path):
    place = tmp_path / "notes"
    place.mkdir()
    (place / "a\x1b[31m\nb.txt").write_text("\x1b[2J Ada Holm was born in 1931 in Bergen.")
    command = [sys.executable, "-m", "pipeline.tools.ask", "Where was Ada Holm born?", "--documents", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"capture_output": True, "text": True, "env": environment, "cwd": "/"}
    done = subprocess.run([*command, "--project", str(project)], **options)
    assert done.returncode == 0, done.stderr
    assert r"a\x1b[31m\nb.txt: \x1b[2J Ada Holm was" in done.stdout and "\x1b" not in done.stdout
    done = subprocess.run([*command[:-1], "nowhere", "--project", str(project)], **options)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: nowhere: no such file or folder; name one that holds text (.txt, ")
    assert done.stderr.count("\n") == 1


def test_documents_that_do_not_fit_are_left_out_by_rank(project, tmp_path, monkeypatch, capsys):
    place = tmp_path / "many"
    place.mkdir()
    for number in range(120):
        (place / f"{number:03}.txt").write_text(f"Person {number} of Turku worked as a nurse. " * 8)
    (place / "last.txt").write_text(TEXTS["Nils Dahl"])
    run(monkeypatch, QUESTION, "--documents", place, "--methods", "base")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"ask: 121 documents with 121 chunks in {place}"
    assert printed[1].startswith("The models read ") and "those that the retriever ranks first" in printed[1]
    [first] = [line for line in printed if line.startswith("   1 ")]
    assert first.endswith("last.txt: Nils Dahl was born in 1950 in Oslo. ...") and "%" in first
    assert any(line.endswith("instruction and question") for line in printed)
    run(monkeypatch, QUESTION, "--documents", place, "--methods", "base", "--most", 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith(
        "The models read 2 documents (2 chunks), those that the retriever ranks first; the oth"
    )
    assert any("the other 113 chunks" in line and " 0.0%" in line for line in printed)


@pytest.mark.parametrize("room", [60, 150, 300, 700])
def test_what_fits_is_as_much_as_fits(project, room):
    """Whole documents by their best chunk, then the best chunks of the next one."""
    found = [Document(name, name, f"{name} is the first. " * 20 + f"\n\n{name} is last. " * 20) for name in "abc"]
    settings = config.load()
    settings = settings.model_copy(update={"chunk": settings.chunk.model_copy(update={"words": 30})})
    ranked = ask.rank(found, "Which is the last?", settings)
    layout = ask.Layout(ask.tokenizer.load(), ask.base_card.read_card())

    def num_tokens(chunks: list[Chunk]) -> int:
        return len(layout.context(chunks, "Answer.").input_ids)

    rank_of = {each.chunk_id: rank for each, rank in zip(ranked.chunks, ranked.ranks, strict=True)}
    best = {name: min(rank_of[each.chunk_id] for each in ranked.chunks if each.document_id == name) for name in "abc"}
    expected: list[Chunk] = []
    for name in sorted("abc", key=best.__getitem__):
        own = sorted(
            (each for each in ranked.chunks if each.document_id == name), key=lambda each: rank_of[each.chunk_id]
        )
        fits = max(n for n in range(len(own) + 1) if num_tokens([*expected, *sorted(own[:n])]) <= room)
        expected += own[:fits]
        if fits < len(own):
            break
    if not expected:
        with pytest.raises(DataError, match=r"tokens are left of model.max_tokens, .* lower chunk.words"):
            ask.fitting(ranked, layout, "Answer.", room)
        return
    read = ask.fitting(ranked, layout, "Answer.", room)
    assert {each.chunk_id for each in read} == {each.chunk_id for each in expected}
    assert read == [each for each in ranked.chunks if each in read] and num_tokens(read) <= room


def test_kinds_of_files(folder):
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\0\xff")
    (folder / "table.csv").write_text("a,b")
    (folder / "LICENSE").write_text("free")
    (folder / "broken.txt").write_bytes(b"PK\0\0\xff")
    (folder / "blank.md").write_text(" \n\t\n")
    (folder / ".git").mkdir()
    (folder / ".git/notes.txt").write_text("hidden")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "windows.txt").write_text("Zoë lives in Łódź.", encoding="utf-16")
    (folder / "marked.txt").write_text("Zoë lives in Łódź.", encoding="utf-8-sig")
    (folder / "questions.jsonl").write_text("{}")
    (folder / "documents.jsonl").write_text(
        '{"id": 7, "title": "Pump", "text": "It runs at 230 volts.", "whole": true}'
    )
    found = documents.read(folder)
    assert found.skipped == {".jpg": 1, ".csv": 1, "without a suffix": 1, "binary": 1, "blank": 1, ".jsonl": 1}
    texts = {each.document_id: (each.title, each.text) for each in found.documents}
    assert texts["marked.txt"][1] == texts["windows.txt"][1] == "Zoë lives in Łódź."
    assert texts["documents.jsonl: 7"] == ("Pump", "It runs at 230 volts.") and found.documents[-3].whole is False
    assert len(texts) == 6
    for name, content in (("table.csv", "a,b"), ("LICENSE", "free"), ("documents.jsonl", "It runs at 230 volts.")):
        assert [each.text for each in documents.read(folder / name).documents] == [content]


def test_a_pdf_is_read_page_by_page(folder):
    pytest.importorskip("pypdf")
    (folder / "Manual.PDF").write_bytes(pdf(["The pump runs at 230 volts.", "", "It weighs 12 kg."]))
    found = {each.document_id: each for each in documents.read(folder).documents}
    assert found["Manual.PDF"] == Document(
        "Manual.PDF", "Manual", "The pump runs at 230 volts.\n\n\n\nIt weighs 12 kg."
    )
    assert documents.read(folder / "Manual.PDF").documents == [found["Manual.PDF"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pdf(["", ""]), "none of its 2 pages has text, perhaps they are scanned; run OCR over it"),
        (b"%PDF-1.4\nnothing", r"cannot be read as PDF \(.+\); save it anew, or take it out"),
        (b"", r"cannot be read as PDF"),
    ],
)
def test_a_pdf_without_text_is_one_line(folder, content, message):
    pytest.importorskip("pypdf")
    (folder / "scan.pdf").write_bytes(content)
    with pytest.raises(DataError, match=f"people/scan.pdf: {message}") as caught:
        documents.read(folder)
    assert "\n" not in str(caught.value)


def test_an_encrypted_pdf_is_one_line(folder):
    pypdf = pytest.importorskip("pypdf")
    (folder / "plain.pdf").write_bytes(pdf(["The pump runs at 230 volts."]))
    writer = pypdf.PdfWriter(folder / "plain.pdf")
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(folder / "plain.pdf")
    with pytest.raises(DataError, match=r"people/plain\.pdf: the PDF is encrypted; save it without a password"):
        documents.read(folder)


def test_without_pypdf_a_pdf_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert len(documents.read(folder).documents) == 3
    (folder / "Manual.pdf").write_bytes(pdf(["The pump runs at 230 volts."]))
    with pytest.raises(ResourceError, match=r"Manual.pdf: pypdf, which reads PDF, is not installed; run `pip install"):
        documents.read(folder)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((" \n", "--documents", "{folder}"), ConfigError, "the question is empty; write `make ask QUESTION="),
        (("Why?", "--documents", ""), ConfigError, "the folder of documents is empty; write `make ask"),
        (("Why?",), ConfigError, "the folder of documents is empty; write `make ask"),
        (("Why?", "--documents", "{folder}/none"), DataError, "people/none: no such file or folder"),
        (("Why?", "--documents", "{folder}/empty"), DataError, "nothing in it can be read, and no file at all"),
        (("Why?", "--documents", "{folder}/photos"), DataError, "nothing in it can be read; found 2 .jpg, 1 .png"),
        (("Why?", "--documents", "{folder}/latin"), DataError, r"latin/a.md: not UTF-8 \(byte 3 is 0xeb\); save the"),
        (("Why?", "--documents", "{folder}", "--methods", "focused"), ArtifactError, "dvc repro train@focused`"),
        (("Why?", "--documents", "{folder}", "--methods", "vanila"), ConfigError, r"\(did you mean vanilla\?\)"),
        (("Why?", "--documents", "{folder}", "--project", "{folder}"), ConfigError, "params.yaml: no such file"),
        (("Why?", "--documents", "{folder}", "--project", "{folder}/x"), ConfigError, "people/x: no such folder"),
        (("Why? " * 5000, "--documents", "{folder}"), DataError, "ask a shorter question"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line(project, folder, monkeypatch, arguments, kind, message):
    (folder / "empty").mkdir()
    for name, content in (
        ("photos/1.jpg", b"\0"),
        ("photos/2.jpg", b"\0"),
        ("photos/3.png", b"\0"),
        ("latin/a.md", b"Zo\xeb"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if "latin" not in str(arguments):
        (folder / "latin/a.md").unlink()
    with pytest.raises(PipelineError, match=message) as caught:
        run(monkeypatch, *(argument.format(folder=folder) for argument in arguments))
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_before_the_stage_base_the_line_says_what_to_run(tmp_path, folder, monkeypatch):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="run `dvc repro base` first"):
        run(monkeypatch, "Why?", "--documents", folder)


def test_a_retriever_that_must_know_the_answer_is_refused(project, folder):
    settings = config.load()
    oracle = config.load_retrievers(["oracle"])["oracle"]
    with pytest.raises(DataError, match=r"retriever oracle: .* choose a retriever that needs no gold"):
        ask.rank(documents.read(folder).documents, "Why?", settings.model_copy(update={"retriever": oracle}))


def test_make_hands_the_question_on_as_it_stands(tmp_path):
    """Quotes, dollars and backticks are letters."""
    question = 'What\'s "5 $ HOME" `date`?'
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / ".ready").touch()
    (tmp_path / "bin").symlink_to(tmp_path)
    command = [
        "make",
        "--silent",
        f"VENV={tmp_path}",
        "--old-file",
        f"{tmp_path}/.ready",
        "ask",
        f"QUESTION={question}",
    ]
    command += ["DOCUMENTS=my files", "METHOD=vanilla guided"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"-m|pipeline.tools.ask|{question}|--documents|my files|--methods|vanilla|guided|"
    done = subprocess.run(command[:-2], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"-m|pipeline.tools.ask|{question}|--documents||"
