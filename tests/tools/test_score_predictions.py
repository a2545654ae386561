"""Files of predictions are scored against official files: golden totals, real files, baselines by hand, and faults."""

import gzip
import json
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.common import tables
from pipeline.data import jsonl
from pipeline.data.benchmarks import nq
from pipeline.evaluation import schema
from pipeline.runtime.errors import ArtifactError, ConfigError, DataError
from pipeline.tools import score_predictions
from pipeline.tools.score_predictions import ForeignPrediction, Reference
from tests.conftest import ROOT

REAL = {
    "quality/quality_leval_dev.jsonl": ("quality", 131, 0),
    "quality/quality_example_text.jsonl": ("quality", 5, 0),
    "qasper/qasper_pieces.json": ("qasper", 121, 0),
    "qasper/qasper_test80_degraded.json": ("qasper", 58, 120),
    "nq/nq-open-oracle.jsonl.gz": ("nq", 2655, 0),
    "hotpotqa/hotpot_dev_distractor_sample.json": ("hotpot", 67, 0),
    "longbench_style/hotpotqa.jsonl": ("longbench", 9, 0),
    "longbench_style/musique.jsonl": ("longbench", 5, 0),
    "longbench_style/2wikimqa.jsonl": ("longbench", 9, 0),
}


def score(folder: Path, predictions: Path, file: Path, benchmark: str, *more: str) -> dict:
    written = folder / "numbers.json"
    arguments = ["--predictions", str(predictions), "--references", str(file), "--benchmark", benchmark]
    score_predictions.main([*arguments, "--json", str(written), *more])
    return json.loads(written.read_text(encoding="utf-8"))


def values(found: dict) -> dict:
    return {name: score["value"] for name, score in found["scores"].items()}


def write_lines(path: Path, rows) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def story(*questions) -> dict:
    """A line of QuALITY."""
    asked = [
        {
            "question": "Who?",
            "question_unique_id": f"s_{number}",
            "options": ["red", "blue", "green", "grey"],
            **question,
        }
        for number, question in enumerate(questions, start=1)
    ]
    return {"article_id": "1", "set_unique_id": "s", "article": "Some text.", "questions": asked}


@pytest.fixture
def quality(tmp_path):
    """Two lines of one story: s_1 to s_4, right are 1 to 4, the second and the fourth are hard."""
    labels = [{"gold_label": label, "difficult": int(label % 2 == 0)} for label in (1, 2, 3, 4)]
    other = story(*labels)
    other["questions"] = other["questions"][2:]
    return write_lines(tmp_path / "quality.jsonl", [story(*labels[:2]), other])


LABELS = {"s_1": 1, "s_2": 2, "s_3": 4, "s_4": 4}
EXPECTED = {"accuracy": 0.75, "accuracy_hard": 1.0, "sat_style": round((3 - 1 / 3) / 4, 6), "sat_style_hard": 1.0}


@pytest.mark.parametrize("name", REAL)
def test_gold_answers_score_1_everywhere(shared, tmp_path, name):
    benchmark, num_questions, num_left_out = REAL[name]
    official = jsonl.JsonRows([shared / "data" / name], jsonl.Rejects())
    questions = score_predictions.read_references(benchmark, official)
    rows = [{"id": asked.names[0], "prediction": asked.answers[0]} for asked in questions if asked.answers]
    given = write_lines(tmp_path / "gold.jsonl", rows)
    found = score(tmp_path, given, shared / "data" / name, benchmark)
    assert (found["num_questions"], found["num_left_out"], found["num_missing"]) == (num_questions, num_left_out, 0)
    assert {value for value in values(found).values() if value is not None} == {1.0}


def test_gold_summaries_score_1(shared, tmp_path):
    with (shared / "data/text/squality_v1-3_dev.jsonl").open(encoding="utf-8") as file:
        record = json.loads(file.readline())
    official = write_lines(tmp_path / "squality.jsonl", [record])
    rows = [
        {"id": f"{record['metadata']['passage_id']}-{asked['question_number']}", "prediction": last["response_text"]}
        for asked in record["questions"]
        for last in asked["responses"][-1:]
    ]
    found = score(tmp_path, write_lines(tmp_path / "gold.jsonl", rows), official, "squality")
    assert values(found) == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0} and found["num_questions"] == 5


@pytest.mark.parametrize(
    ("name", "num_right", "num_hard_right", "num_hard"),
    [("quality_leval_dev", 39, 0, 0), ("quality_example_text", 3, 2, 4)],
)
def test_the_longest_option_is_right_as_often_as_counted_by_hand(
    shared, tmp_path, name, num_right, num_hard_right, num_hard
):
    path = shared / "data" / "quality" / f"{name}.jsonl"
    asked = [q for line in path.read_text(encoding="utf-8").splitlines() for q in json.loads(line)["questions"]]
    longest = {q["question_unique_id"]: q["options"].index(max(q["options"], key=len)) for q in asked}
    right = [longest[q["question_unique_id"]] + 1 == q["gold_label"] for q in asked]
    hard = [found for found, q in zip(right, asked, strict=True) if q["difficult"] == 1]
    assert (sum(right), sum(hard), len(hard)) == (num_right, num_hard_right, num_hard)
    rows = [{"question_unique_id": name, "answer": f"({'ABCD'[place]})"} for name, place in longest.items()]
    found = score(tmp_path, write_lines(tmp_path / "longest.jsonl", rows), path, "quality")
    assert values(found) == {
        "accuracy": round(num_right / len(asked), 6),
        "accuracy_hard": round(num_hard_right / num_hard, 6) if num_hard else None,
        "sat_style": round((num_right - (len(asked) - num_right) / 3) / len(asked), 6),
        "sat_style_hard": round((num_hard_right - (num_hard - num_hard_right) / 3) / num_hard, 6) if num_hard else None,
    }


def slow_f1(found: str, expected: str) -> float:
    bags = []
    for text in (found, expected):
        kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
        bags.append(Counter(word for word in kept.split() if word not in ("a", "an", "the")))
    return 2 * sum(min(bags[0][word], bags[1][word]) for word in bags[0]) / max(1, bags[0].total() + bags[1].total())


@pytest.mark.parametrize(
    ("name", "answer_f1", "evidence_f1"), [("qasper_pieces", 0.003306, 0.239669), ("qasper_test80_degraded", 0.0, 1.0)]
)
def test_always_unanswerable_scores_what_a_slow_computation_finds(shared, tmp_path, name, answer_f1, evidence_f1):
    path = shared / "data" / "qasper" / f"{name}.json"
    papers = json.loads(path.read_text(encoding="utf-8"))
    asked = [question for paper in papers.values() for question in paper["qas"] if question["answers"]]
    best, empty = [], []
    for question in asked:
        given = [annotation["answer"] for annotation in question["answers"]]
        assert not any(answer["unanswerable"] for answer in given)  # the samples have none
        texts = [
            ", ".join(answer["extractive_spans"]) or answer["free_form_answer"] or ("Yes" if answer["yes_no"] else "No")
            for answer in given
        ]
        best.append(max(slow_f1("Unanswerable", text) for text in texts))
        empty.append(any(not answer["evidence"] for answer in given))
    rows = [
        {"question_id": q["question_id"], "predicted_answer": "Unanswerable", "predicted_evidence": []} for q in asked
    ]
    found = values(score(tmp_path, write_lines(tmp_path / "never.jsonl", rows), path, "qasper"))
    assert found["answer_f1"] == answer_f1 == pytest.approx(sum(best) / len(best), abs=1e-6)
    assert found["evidence_f1"] == evidence_f1 == pytest.approx(sum(empty) / len(empty), abs=1e-6)


def test_every_form_of_predictions_gives_the_same_numbers(tmp_path, quality, capsys):
    rows = [{"question_unique_id": name, "prediction": label} for name, label in LABELS.items()]
    texts = [{"id": name, "model_answer": f"The answer is ({'ABCD'[label - 1]})."} for name, label in LABELS.items()]
    forms = [
        write_lines(tmp_path / "rows.jsonl", rows),
        write_lines(tmp_path / "rows.jsonl.gz", reversed(rows)),
        write_lines(tmp_path / "texts.jsonl", texts),
        tmp_path / "object.json",
        tmp_path / "list.json",
        tmp_path / "leaderboard.csv",
        tmp_path / "rows.parquet",
        tmp_path / "texts.parquet",
    ]
    forms[3].write_text(json.dumps(LABELS), encoding="utf-8")
    forms[4].write_text(json.dumps(texts), encoding="utf-8")
    forms[5].write_text("".join(f"{name},{label}\r\n" for name, label in LABELS.items()), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([{**row, "note": [1]} for row in rows]), forms[6])
    pq.write_table(pa.Table.from_pylist([{**row, "prediction": None} for row in texts]), forms[7])
    for path in forms:
        found = score(tmp_path, path, quality, "quality")
        assert values(found) == EXPECTED and found["num_questions"] == 4, path.name
    printed = capsys.readouterr().out.splitlines()
    assert printed[:6] == [
        "quality: 4 questions; 0 without a prediction, counted as wrong; 0 answers that name no single option, counted "
        "as wrong",
        "score           percent  n",
        "accuracy          75.00  4",
        "accuracy_hard    100.00  2",
        "sat_style         66.67  4",
        "sat_style_hard   100.00  2",
    ]
    assert printed == printed[:6] * len(forms)


def test_missing_predictions_are_counted_and_hotpots_own_form_is_read(shared, tmp_path, capsys):
    path = shared / "data/hotpotqa/hotpot_dev_distractor_sample.json"
    gold = {asked["_id"]: asked["answer"] for asked in json.loads(path.read_text(encoding="utf-8"))}
    given = tmp_path / "official.json"
    given.write_text(json.dumps({"answer": dict(list(gold.items())[:60]), "sp": {}}), encoding="utf-8")
    found = score(tmp_path, given, path, "hotpot")
    assert found["num_missing"] == 7 and values(found) == {"exact_match": round(60 / 67, 6), "f1": round(60 / 67, 6)}
    assert "67 questions; 7 without a prediction" in capsys.readouterr().out


def test_questions_of_lost_in_the_middle_are_found_by_their_wording(shared, tmp_path):
    path = shared / "data/nq/nq-open-oracle.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:20]
    official = write_lines(tmp_path / "official.jsonl", rows)
    # The authors' script writes the whole record back, with the model's answer.
    given = [{**row, "model_answer": f"It is {row['answers'][0]}.\n\nDocument"} for row in rows]
    found = score(tmp_path, write_lines(tmp_path / "given.jsonl.gz", given), official, "nq")
    assert values(found)["best_subspan_em"] == 1.0 and values(found)["exact_match"] < 0.5


def test_only_the_test_questions_of_questions_jsonl_are_scored(tmp_path):
    asked = {"question": "Who?", "answers": ["Ann"], "documents": ["d"]}
    rows = [{"id": split, "split": split, **asked} for split in ("train", "dev", "test")]
    official = write_lines(tmp_path / "questions.jsonl", rows)
    given = write_lines(tmp_path / "given.jsonl", [{"id": "test", "prediction": "Ann\nLee"}])
    found = score(tmp_path, given, official, "jsonl")
    assert found["num_questions"] == 1 and set(values(found).values()) == {1.0}
    with pytest.raises(DataError, match=r'\("dev"\) is of no question'):
        score(tmp_path, write_lines(tmp_path / "given.jsonl", [{"id": "dev", "prediction": "x"}]), official, "jsonl")


def test_a_longbench_task_that_is_not_scored_by_f1_is_refused_and_triviaqa_is_cut(tmp_path):
    record = {"_id": "1", "input": "Who?", "context": "Ann.", "answers": ["Ann"]}
    given = write_lines(tmp_path / "given.jsonl", [{"id": "1", "prediction": "\n\nAnn\nQuestion: who else"}])
    for dataset, expected in (("triviaqa_e", 1.0), ("hotpotqa", 0.4), ("", 0.4)):
        official = write_lines(tmp_path / "official.jsonl", [{**record, "dataset": dataset}])
        assert values(score(tmp_path, given, official, "longbench")) == {"qa_f1": pytest.approx(expected)}
    official = write_lines(tmp_path / "official.jsonl", [{**record, "dataset": "gov_report"}])
    with pytest.raises(DataError, match="dataset is 'gov_report'"):
        score(tmp_path, given, official, "longbench")


def own_row(column: str, kind: pa.DataType):
    if pa.types.is_large_list(kind):
        return []
    return "" if pa.types.is_large_string(kind) else 0


def write_own(path: Path, rows) -> Path:
    empty = {column: own_row(column, kind) for column, kind in schema.PREDICTIONS.columns}
    tables.write(schema.PREDICTIONS.at(path), [{**empty, **row} for row in rows])
    return path


def test_our_own_predictions_are_scored_by_input_and_number_of_documents(tmp_path):
    asked = [{"question": f"Who is {name}?", "answer": [name]} for name in ("Ann", "Bob")]
    official = write_lines(tmp_path / "official.jsonl", asked)
    found = nq.questions(jsonl.JsonRows([official], jsonl.Rejects()), jsonl.Rejects().reject)
    rows = [
        {
            "example_id": f"{question.question_id}-{size}-0",
            "question_id": question.question_id,
            "benchmark": "nq",
            "input": given,
            "num_documents": size,
            "prediction": question.answers[0] if (given, size) == ("retrieval", 20) else "nobody",
        }
        for question in found
        for given in ("full", "retrieval")
        for size in (10, 20)
    ]
    own = write_own(tmp_path / "focused.parquet", rows)
    for name, size, expected in (("full", "20", 0.0), ("retrieval", "10", 0.0), ("retrieval", "20", 1.0)):
        numbers = score(tmp_path, own, official, "nq", "--input", name, "--num-documents", size)
        assert values(numbers)["exact_match"] == expected and numbers["num_missing"] == 0
    with pytest.raises(DataError, match=r"2 predictions .* answered a second time.*--num-documents"):
        score(tmp_path, own, official, "nq")
    with pytest.raises(DataError, match="no predictions of input full, num documents 30; choose with --input"):
        score(tmp_path, own, official, "nq", "--num-documents", "30")
    hotpot = tmp_path / "hotpot.json"
    hotpot.write_text(
        json.dumps(
            [{"_id": "h", "question": "Who?", "answer": "Ann", "supporting_facts": [], "context": [["Ann", ["Ann."]]]}]
        )
    )
    with pytest.raises(DataError, match="predictions of nq, not of hotpot"):
        score(tmp_path, own, hotpot, "hotpot")


def test_our_own_predictions_over_one_number_of_documents_are_scored_by_the_place_of_the_gold_one(tmp_path):
    official = write_lines(tmp_path / "official.jsonl", [{"question": "Who is Ann?", "answer": ["Ann"]}])
    [question] = nq.questions(jsonl.JsonRows([official], jsonl.Rejects()), jsonl.Rejects().reject)
    rows = [
        {
            "example_id": f"{question.question_id}-10-{place}", "question_id": question.question_id, "benchmark": "nq",
            "input": "full", "num_documents": 10, "gold_position": place, "prediction": "Ann" if place == 4 else "Bob",
        }
        for place in (0, 4, 9)
    ]  # fmt: skip
    own = write_own(tmp_path / "focused.parquet", rows)
    with pytest.raises(DataError, match=r"answered a second time.*--num-documents N, --gold-position N"):
        score(tmp_path, own, official, "nq", "--num-documents", "10")
    for place, expected in (("0", 0.0), ("4", 1.0)):
        numbers = score(tmp_path, own, official, "nq", "--num-documents", "10", "--gold-position", place)
        assert values(numbers)["exact_match"] == expected


def test_quality_labels_may_be_written_as_text(tmp_path, quality):
    found = score(tmp_path, write_lines(tmp_path / "p.jsonl", [{"id": "s_2", "prediction": " 2 "}]), quality, "quality")
    same = score(tmp_path, write_lines(tmp_path / "p.jsonl", [{"id": "s_2", "prediction": 2}]), quality, "quality")
    assert found == same and found["num_unparseable"] == 0


def test_a_file_without_a_prediction_is_refused(tmp_path, quality):
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"p\.jsonl: there is not one row in the file"):
        score(tmp_path, tmp_path / "p.jsonl", quality, "quality")


def test_a_damaged_file_of_our_own_is_refused(tmp_path, quality):
    row = {"example_id": "s_1", "question_id": "s_1", "benchmark": "quality", "input": "full", "prediction": "B" * 500}
    own = write_own(tmp_path / "base.parquet", [row])
    raw = bytearray(own.read_bytes())
    column = pq.ParquetFile(own).metadata.row_group(0).column(0)
    raw[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    own.write_bytes(raw)
    with pytest.raises(ArtifactError) as error:
        score(tmp_path, own, quality, "quality")
    assert "base.parquet" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: --predictions/--score, --references, --benchmark"),
        (["--predictions"], "--predictions/--score: expected one argument"),
        (["--score", "p", "--references", "r", "--benchmark", "qualty"], "did you mean quality"),
        (
            ["--predictions", "p", "--references", "r", "--benchmark", "nq", "--input", "half"],
            "choose from full, retrieval",
        ),
        (["--predictions", "p", "--references", "r", "--benchmark", "nq", "--num-documents", "x"], "invalid int value"),
        (["--predictions", "p", "--references", "r", "--benchmark", "nq", "more"], "unrecognized arguments: more"),
        (["--prediction", "p", "--references", "r", "--benchmark", "nq"], "required: --predictions"),
    ],
)
def test_arguments_not_understood_are_one_line(arguments, said, capsys):
    with pytest.raises(ConfigError) as error:
        score_predictions.main(arguments)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", b'{"id": "s_1", "prediction": 1}\n{"id": "s_2", "pre', "line 2: not valid JSON"),
        ("p.jsonl", b'{"id": "s_1", "prediction": "\xff"}\n', "line 1: not UTF-8"),
        ("p.jsonl", b'{"id": "s_1", "prediction": NaN}\n', "line 1: NaN is not JSON"),
        ("p.jsonl", b'{"id": "s_1", "prediction": 0}\n', "line 1: prediction is 0, expected a label from 1 to 4"),
        ("p.jsonl", b'{"id": "s_9", "prediction": 1}\n', '("s_9") is of no question'),
        ("p.jsonl", b'{"id": "s_1", "prediction": 1}\n' * 2, 'line 2: 1 prediction ("s_1") is answered a second time'),
        ("p.jsonl.gz", gzip.compress(b"1\n" * 99, mtime=0)[:-12], "the gzip file is damaged"),
        ("p.json", b'{"s_1": 1, "s_1": 2}', 'the key "s_1" stands twice'),
        ("p.json", b'{"s_1": 1, "s_2"', "not valid JSON"),
        ("p.csv", b"s_1,1\ns_2;2\n", "line 2: expected `<id>,<label>`"),
        ("p.csv", b"s_1,5\n", "line 1: expected `<id>,<label>`"),
        ("p.csv", b"s_1,\xff\n", "not UTF-8 (byte 5)"),
        ("p.parquet", b"", "not a whole Parquet file"),
        ("p.parquet", b"PAR1" + b"x" * 20 + b"PAR1", "not a whole Parquet file"),
    ],
)
def test_a_bad_file_of_predictions_is_refused_in_one_line(tmp_path, quality, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        score(tmp_path, path, quality, "quality")
    assert said in str(error.value) and name in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "numbers.json").exists()


@given(keep=st.floats(0.0, 1.0, exclude_max=True), kind=st.sampled_from([".jsonl.gz", ".parquet", ".json"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_a_file_that_is_cut_off_anywhere_is_never_taken_for_whole(tmp_path, quality, keep, kind):
    rows = [{"id": name, "prediction": label} for name, label in LABELS.items()]
    path = tmp_path / f"cut{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        write_lines(path, rows)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    if path.stat().st_size == 0 and kind == ".jsonl.gz":
        return  # an empty file of lines holds no line: all predictions are missing, and counted
    with pytest.raises(DataError):
        score(tmp_path, path, quality, "quality")


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([{"gold_label": 5}], "gold_label is 5, expected 1 to 4"),
        ([{"gold_label": 0}], "gold_label is 0, expected 1 to 4"),
        ([{}], "gold_label is None"),
        ([{"gold_label": 1, "question_unique_id": "x"}, {"gold_label": 1, "question_unique_id": "x"}], "'x' already"),
    ],
)
def test_bad_references_are_refused(tmp_path, questions, said):
    official = write_lines(tmp_path / "official.jsonl", [story(*questions)])
    with pytest.raises(DataError, match=r"official\.jsonl, line 1") as error:
        score(tmp_path, write_lines(tmp_path / "p.jsonl", []), official, "quality")
    assert said in str(error.value)


def test_references_of_another_benchmark_or_none_at_all_are_refused(tmp_path, quality):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match=r"empty\.jsonl: there is not one row in the file"):
        score(tmp_path, empty, empty, "squality")
    unasked = {"id": "a", "question": "Who?", "answers": ["x"], "documents": ["d"], "split": "train"}
    with pytest.raises(DataError, match="no question of jsonl"):
        score(tmp_path, empty, write_lines(tmp_path / "train.jsonl", [unasked]), "jsonl")
    with pytest.raises(DataError, match=r"line 1: .*question is missing"):
        score(tmp_path, empty, quality, "nq")
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        score(tmp_path, tmp_path / "nowhere.jsonl", quality, "quality")


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_prints_the_table_and_ends_with_the_exit_codes_of_its_errors(tmp_path, quality):
    given = write_lines(tmp_path / "p.jsonl", [{"id": name, "prediction": label} for name, label in LABELS.items()])
    command = [
        "-m",
        "pipeline.tools.score_predictions",
        "--predictions",
        str(given),
        "--references",
        str(quality),
        "--benchmark",
    ]
    done = run_python(*command, "quality")
    assert (done.returncode, done.stderr) == (0, "") and "accuracy          75.00  4" in done.stdout
    assert run_python(*command, "qualty").returncode == 2
    extra = write_lines(given, [{"id": "z", "prediction": 1}])
    done = run_python(*command, "quality")
    assert done.returncode == 3 and done.stderr.startswith(f"error: {extra}, line 1: ") and done.stderr.count("\n") == 1


def test_slow_libraries_are_not_imported_before_they_are_needed():
    slow = ("torch", "transformers", "rouge_score")
    code = f"import sys, pipeline.tools.score_predictions; print([name for name in {slow} if name in sys.modules])"
    assert run_python("-c", code).stdout == "[]\n"


REFERENCES = [Reference((f"q{number}", f"alias-{number}"), ["x"]) for number in range(6)]


def parsed(*rows, benchmark="hotpot"):
    return list(score_predictions.parse([(f"line {at}", row) for at, row in enumerate(rows, start=1)], benchmark))


@pytest.mark.parametrize("name", ["id", "question_id", "question_unique_id", "example_id"])
@pytest.mark.parametrize("value", ["prediction", "predicted_answer", "model_answer", "answer"])
def test_every_key_for_id_and_prediction_is_read(name, value):
    (found,) = parsed({name: "q1", value: "Paris", "other": 1})
    assert (found.names, found.value, found.evidence) == (("q1",), "Paris", None)


def test_a_question_names_itself_in_nq_only():
    assert parsed({"question": "who", "model_answer": "x"}, benchmark="nq")[0].names == ("who",)
    with pytest.raises(DataError, match="line 1: there is no id"):
        parsed({"question": "who", "model_answer": "x"})


def test_of_several_names_the_first_that_is_a_question_counts():
    found = score_predictions.pair(REFERENCES, parsed({"id": 7, "question_id": "alias-2", "answer": "x"}))
    assert [prediction is not None for prediction in found] == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("row", "benchmark", "said"),
    [
        (["q1", "x"], "hotpot", "expected an object"),
        ({"prediction": "x"}, "hotpot", "there is no id"),
        ({"id": "", "prediction": "x"}, "hotpot", "there is no id"),
        ({"id": True, "prediction": "x"}, "hotpot", "there is no id"),
        ({"id": "q1"}, "hotpot", "there is no prediction"),
        ({"id": "q1", "prediction": None}, "hotpot", "prediction is null, expected a text"),
        ({"id": "q1", "prediction": 3}, "hotpot", "prediction is 3, expected a text"),
        ({"id": "q1", "prediction": 0}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": 5}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": True}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": 1.0}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": "x", "predicted_evidence": "p"}, "qasper", "expected a list of texts"),
        ({"id": "q1", "prediction": "x", "predicted_evidence": [1]}, "qasper", "expected a list of texts"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(row, benchmark, said):
    with pytest.raises(DataError, match="line 1: ") as error:
        parsed(row, benchmark=benchmark)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_predictions_of_no_question_are_refused_and_the_first_ones_named():
    rows = [{"id": f"z{number}", "answer": "x"} for number in range(7)]
    with pytest.raises(DataError, match=r'line 2: 7 predictions \("z0", "z1", "z2", "z3", "z4", \.\.\.\) are of no'):
        score_predictions.pair(REFERENCES, parsed({"id": "q1", "answer": "x"}, *rows))


def test_a_second_prediction_of_a_question_is_refused_whatever_name_it_uses():
    rows = [{"id": "q1", "answer": "x"}, {"id": "alias-1", "answer": "x"}]
    with pytest.raises(DataError, match=r'line 2: 1 prediction \("alias-1"\) is answered a second time.*, hint'):
        score_predictions.pair(REFERENCES, parsed(*rows), hint=", hint")


@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_order_of_predictions_does_not_matter_and_missing_ones_are_missing(order, num_given):
    rows = [{"id": f"q{number}", "answer": f"x{number}"} for number in order if number < num_given]
    found = score_predictions.pair(REFERENCES, parsed(*rows))
    texts = [None if prediction is None else prediction.value for prediction in found]
    assert texts == [f"x{number}" if number < num_given else None for number in range(6)]


def test_an_object_by_id_and_hotpots_own_form_become_rows():
    rows = [
        ("a, q1", {"id": "q1", "prediction": "x"}),
        ("a, q2", {"id": "q2", "predicted_answer": "y"}),
    ]
    assert list(score_predictions.by_id("a", {"q1": "x", "q2": {"predicted_answer": "y"}}, "qasper")) == rows
    assert list(score_predictions.by_id("a", {"id": "q3", "answer": "z"}, "qasper")) == [
        ("a", {"id": "q3", "answer": "z"})
    ]
    official = {"answer": {"q1": "x"}, "sp": {"q1": [["T", 0]]}}
    assert list(score_predictions.by_id("a", official, "hotpot")) == rows[:1]


@pytest.mark.parametrize("ending", ["json", "jsonl", "txt"])
@pytest.mark.parametrize("layout", ["lines", "list", "object", "one line of an object"])
def test_predictions_are_read_whatever_the_name_and_the_layout(tmp_path, ending, layout):
    rows = [{"id": "q1", "prediction": "Anna Vrba."}, {"id": "q2", "prediction": "A"}]
    by_id = {row["id"]: row["prediction"] for row in rows}
    text = {
        "lines": "\r\n".join(map(json.dumps, rows)),
        "list": json.dumps(rows, indent=1),
        "object": json.dumps(by_id, indent=1),
        "one line of an object": json.dumps(by_id),
    }[layout]
    given = tmp_path / f"predictions.{ending}"
    given.write_text(text)
    asked = {"question": "Who?", "documents": ["d"], "split": "test"}
    references = write_lines(
        tmp_path / "questions.jsonl",
        [{**asked, "id": "q1", "answers": ["Anna Vrba"]}, {**asked, "id": "q2", "answers": ["A"]}],
    )
    assert values(score(tmp_path, given, references, "jsonl"))["exact_match"] == 1.0


def test_a_file_of_squad_is_a_file_of_references(tmp_path):
    paragraph = {
        "context": "Anna Vrba kept the light.",
        "qas": [
            {"id": "a", "question": "Who kept it?", "answers": [{"text": "Anna Vrba", "answer_start": 0}]},
            {"id": "b", "question": "Who built it?", "answers": [], "is_impossible": True},
        ],
    }
    references = tmp_path / "dev-v2.0.json"
    references.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Light", "paragraphs": [paragraph]}]}))
    given = tmp_path / "predictions.json"
    given.write_text(json.dumps({"a": "anna vrba"}))
    found = score(tmp_path, given, references, "jsonl")
    assert (found["num_questions"], values(found)["exact_match"]) == (1, 1.0)


@pytest.mark.parametrize(("prediction", "right"), [("A", 1.0), ("", 0.0), ("The", 0.0), ("B", 0.0)])
def test_a_reference_that_is_one_letter_is_scored_as_that_letter(tmp_path, prediction, right):
    asked = {"id": "q1", "question": "Which?", "answers": ["A"], "documents": ["d"], "split": "test"}
    references = write_lines(tmp_path / "questions.jsonl", [asked])
    given = write_lines(tmp_path / "given.jsonl", [{"id": "q1", "prediction": prediction}])
    assert set(values(score(tmp_path, given, references, "jsonl")).values()) == {right}


def test_a_reference_of_two_lines_is_compared_with_two_lines(tmp_path):
    asked = {"id": "q1", "question": "Who?", "answers": ["Anna\nVrba"], "documents": ["d"], "split": "test"}
    references = write_lines(tmp_path / "questions.jsonl", [asked])
    given = write_lines(tmp_path / "given.jsonl", [{"id": "q1", "prediction": "Anna\nVrba\nOstrava"}])
    assert values(score(tmp_path, given, references, "jsonl"))["exact_match"] == 1.0


def given_to(reference, value=None, evidence=None):
    return reference, None if value is None else ForeignPrediction("here", reference.names, value, evidence)


def total(benchmark, *pairs):
    """All numbers, and of each score value and n."""
    found = score_predictions.totals(benchmark, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return found, {name: (of["value"], of["n"]) for name, of in found["scores"].items()}


def golden_qasper(shared):
    lines = (shared / "golden" / "metrics" / "qasper_structured.jsonl").read_text(encoding="utf-8").splitlines()
    return list(map(json.loads, lines))


def qasper_references(*questions):
    asked = [{"question": "Which?", **question} for question in questions]
    paper = {"title": "A paper", "abstract": "", "full_text": [], "qas": asked}
    return score_predictions.read_references("qasper", [("here", {"paper": paper})])


def test_the_golden_total_of_qasper_is_met(shared):
    row = next(row for row in golden_qasper(shared) if row["id"] == "aggregate")
    pairs = []
    for reference in qasper_references(*row["references"]["paper"]["qas"]):
        given = row["prediction"].get(reference.names[0], {})
        pairs.append(given_to(reference, given.get("predicted_answer"), given.get("predicted_evidence")))
    expected = row["expected"]
    found, scores = total("qasper", *pairs)
    assert found["num_missing"] == expected["Missing predictions"] == 3
    assert scores["answer_f1"] == (pytest.approx(expected["Answer F1"], abs=1e-9), 12)
    assert scores["evidence_f1"] == (pytest.approx(expected["Evidence F1"], abs=1e-9), 12)
    for kind, value in expected["Answer F1 by type"].items():
        assert scores[f"answer_f1_booked_{kind}"][0] == pytest.approx(value, abs=1e-9)
    # The first annotators' types count every question, missing ones as 0.
    assert sum(scores[f"answer_f1_first_{kind}"][1] for kind in expected["Answer F1 by type"]) == 12
    assert sum(scores[f"answer_f1_booked_{kind}"][1] for kind in expected["Answer F1 by type"]) == 9


def test_every_golden_vector_of_a_question_of_qasper_is_met(shared):
    rows = [row for row in golden_qasper(shared) if row["metric"] == "qasper_official"]
    assert len(rows) == 12
    for row in rows:
        [reference] = qasper_references({"question_id": row["id"], "answers": row["references"]})
        given = row["prediction"]
        _, scores = total("qasper", given_to(reference, given["predicted_answer"], given["predicted_evidence"]))
        for name, evidence in (("all_evidence", "evidence_f1"), ("text_evidence_only", "evidence_f1_text_only")):
            expected = row["expected"][name]
            assert scores["answer_f1"] == (pytest.approx(expected["answer_f1"], abs=1e-9), 1), row["id"]
            assert scores[f"answer_f1_booked_{expected['booked_type']}"][1] == 1, row["id"]
            assert scores[evidence] == (pytest.approx(expected["evidence_f1"], abs=1e-9), 1), row["id"]


def test_evidence_has_no_score_where_nobody_gave_any_and_lost_references_are_left_out():
    answer = {"unanswerable": True, "extractive_spans": [], "free_form_answer": "", "yes_no": None, "evidence": ["p1"]}
    unanswerable = {"question_id": "q1", "answers": [{"answer": answer}]}
    asked, lost = qasper_references(unanswerable, {"question_id": "q2", "answers": []})
    found, scores = total("qasper", given_to(asked, "unanswerable"), given_to(lost, "x"))
    assert (found["num_questions"], found["num_missing"], found["num_left_out"]) == (1, 0, 1)
    assert scores["answer_f1"] == (1.0, 1) and scores["evidence_f1"] == (None, 0)
    assert total("qasper", given_to(asked, "x", []))[1]["evidence_f1"] == (1.0, 1)


def test_an_annotator_without_an_answer_is_refused():
    nothing = {"unanswerable": False, "extractive_spans": [], "free_form_answer": "", "yes_no": None, "evidence": []}
    with pytest.raises(DataError, match="here, paper paper, question q1: an annotator's answer says nothing"):
        qasper_references({"question_id": "q1", "answers": [{"answer": nothing}]})


def test_quality_counts_unparseable_and_missing_answers_as_wrong_and_abstentions_apart():
    options = ["red", "blue", "green", "grey"]
    given = [2, "(B)", "I do not know", -1, None, "The answer is blue"]
    pairs = []
    for at, value in enumerate(given):
        subset = "hard" if at % 2 else "easy"
        asked = Reference((f"q{at}",), ["blue"], options=options, gold_option=1, subset=subset)
        pairs.append(given_to(asked, value))
    found, scores = total("quality", *pairs)
    assert (found["num_questions"], found["num_missing"], found["num_unparseable"]) == (6, 1, 2)
    assert scores["accuracy"] == (pytest.approx(2 / 6), 6) and scores["accuracy_hard"] == (pytest.approx(1 / 3), 3)
    assert scores["sat_style"] == (pytest.approx((2 - 3 / 3) / 6), 6)
    assert scores["sat_style_hard"] == (pytest.approx((1 - 1 / 3) / 3), 3)


@pytest.mark.parametrize(
    ("benchmark", "prediction", "expected"),
    [
        ("nq", "the Paris\nLondon", {"best_subspan_em": 1.0, "exact_match": 1.0, "token_f1": 1.0}),
        ("nq", "\nParis", {"best_subspan_em": 0.0, "exact_match": 0.0, "token_f1": 0.0}),
        ("jsonl", "It is Paris\nx", {"exact_match": 0.0, "token_f1": pytest.approx(0.5), "best_subspan_em": 1.0}),
        ("hotpot", "Paris\nLondon", {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}),
        ("longbench", "Paris\nLondon", {"qa_f1": pytest.approx(2 / 3)}),
        ("squality", "Paris", {"rouge_1": 1.0, "rouge_2": 0.0, "rouge_l": 1.0}),
    ],
)
def test_each_benchmark_reads_what_its_script_reads(benchmark, prediction, expected):
    cut = (lambda text: text.split("\n")[0].strip()) if benchmark in ("nq", "jsonl") else str
    _, scores = total(benchmark, given_to(Reference(("q",), ["Paris"], cut=cut), prediction))
    assert {name: value for name, (value, _) in scores.items()} == expected
    _, scores = total(benchmark, given_to(Reference(("q",), ["the"], cut=cut)))
    assert all(value == 0.0 for value, _ in scores.values())


def test_no_questions_have_no_scores():
    for benchmark in ("quality", "qasper", "nq", "jsonl"):
        assert set(total(benchmark)[1].values()) == {(None, 0)}
