"""Writes the examples as text for other tools: a folder with a JSONL file for each split, and a dataset card.

    python -m pipeline.tools.export --out FOLDER [--split SPLIT] [--method METHOD]

A prompt is the text of the full view up to where the answer begins; the base's tokenizer makes the view's tokens of it,
also with its BOS, which the text holds only where the tokenizer adds none by itself. A completion is the answer without
EOS. For method guided it is what the teacher said, in the splits that it taught. A masked prompt is the text of the
masked view. Rows of which plain tokenization makes other tokens (chunks cut in the middle of a letter, a document that
holds the name of a control token) are counted.

TRL's SFTTrainer reads prompt and completion; lm-evaluation-harness reads the files by examples/lm_eval.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from huggingface_hub import DatasetCardData
from tokenizers import Tokenizer

from pipeline.common import base_card, files, tables
from pipeline.common.base_card import BaseCard
from pipeline.runtime.errors import ConfigError, DataError
from pipeline.runtime.main import run
from pipeline.runtime.methods import GUIDED, TRAINED
from pipeline.tools import arguments
from pipeline.views import tokenizer

SPLITS = ("train", "unlabelled", "dev", "test")
README = "README.md"
COPIED = (
    "example_id", "question_id", "benchmark", "question", "answers", "answer_types", "options", "gold_option",
)  # fmt: skip
"""Columns of the examples that each line takes over."""


def main() -> None:
    """Write the folder; it replaces an earlier export, and nothing else.

    Raises:
        ConfigError: the folder holds other files.
        ArtifactError: a table is missing, or tables do not belong together.
        DataError: the split has no example with an answer.
    """
    parser = arguments.ArgumentParser(
        prog="python -m pipeline.tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to make; an earlier export is replaced")
    parser.add_argument("--split", type=arguments.one_of(SPLITS), help=f"{', '.join(SPLITS)}; all of them without it")
    parser.add_argument("--method", type=arguments.one_of(TRAINED), help=f"{GUIDED}: completions are the teacher's")
    asked = parser.parse_args(sys.argv[1:])
    _refuse_foreign(asked.out)
    wanted = SPLITS if asked.split is None else (asked.split,)
    counts, unanswered = Counter[str](), Counter[str]()
    num_other = 0
    with files.workspace(asked.out.name, asked.out.parent) as folder, ExitStack() as opened:
        written = folder / "export"
        written.mkdir()
        file_of: dict[str, TextIO] = {}
        for line in lines(wanted, _taught(asked.method), unanswered):
            if line.split not in file_of:
                path = written / f"{line.split}.jsonl"
                file_of[line.split] = opened.enter_context(path.open("w", encoding="utf-8"))
            file_of[line.split].write(json.dumps(line.row, ensure_ascii=False) + "\n")
            counts[line.split] += 1
            num_other += not line.same_tokens
        if not counts:
            raise DataError(
                f"{tables.FULL_VIEWS}: no example with an answer in split {', '.join(wanted)}; choose another --split"
                + ("" if asked.method == GUIDED else f", or --method {GUIDED} for what the teacher said")
            )
        opened.close()
        (written / README).write_text(card(counts, asked.method, num_other), encoding="utf-8")
        files.put(written, asked.out)
    told, without = (", ".join(f"{num:,} {split}" for split, num in of.items()) for of in (counts, unanswered))
    left_out = f" ({without} left out, which have no answer)" if without else ""
    print(
        f"export: {told} in {asked.out}{left_out}; plain tokenization of {num_other:,} rows differs from the views; "
        f"next: datasets.load_dataset('json', data_files='{asked.out}/{next(iter(counts))}.jsonl')"
    )


def _refuse_foreign(out: Path) -> None:
    ours = {README, *(f"{split}.jsonl" for split in SPLITS)}
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out}: is no folder; name another one")
    if out.is_dir() and (others := sorted({path.name for path in out.iterdir()} - ours)):
        raise ConfigError(f"{out}: holds {others[0]}, which no export has written; name a folder of its own")


class ExportedRow(NamedTuple):
    """One example as text."""

    split: str
    row: dict[str, Any]
    same_tokens: bool
    """Whether the base's tokenizer makes the tokens of the full view of the text."""


def _taught(method: str | None) -> dict[str, Sequence[int]]:
    """Read what the teacher said to each example, for the method that learns it."""
    if method != GUIDED:
        return {}
    return {row["example_id"]: row["output_ids"] for row in tables.scan(tables.TEACHINGS, ["example_id", "output_ids"])}


def lines(
    splits: Sequence[str], taught: Mapping[str, Sequence[int]], unanswered: Counter[str]
) -> Iterator[ExportedRow]:
    """Yield the examples of these splits that have an answer, or one of the teacher's; count the others by split.

    Raises:
        ArtifactError: as `tables.side_by_side`, or of the tokenizer.
    """
    card, writes = base_card.read_card(), tokenizer.load()
    writes.encode_special_tokens = False  # as other tools read a prompt
    adds_bos = card.bos_id is not None and writes.encode("A").ids[:1] == [card.bos_id]
    sources = (
        (tables.FULL_VIEWS, ["example_id", "split", "num_documents", "gold_position", "input_ids", "prompt_end"]),
        (tables.EXAMPLES, list(COPIED)),
        (tables.MASKED_VIEWS, ["example_id", "input_ids", "prompt_end"]),
    )
    for full, example, masked in tables.side_by_side(*sources):
        ids, end = full["input_ids"].tolist(), full["prompt_end"]
        said = taught.get(full["example_id"], ids[end:])
        answer = [token for place, token in enumerate(said) if place + 1 < len(said) or token not in card.eos_ids]
        if full["split"] not in splits:
            continue
        if not answer:
            unanswered[full["split"]] += 1
            continue
        prompt, whole = (_text(writes, card, part, adds_bos) for part in (ids[:end], [*ids[:end], *answer]))
        row = {name: example[name] for name in COPIED} | {
            "num_documents": full["num_documents"],
            "gold_position": full["gold_position"],
            "prompt": prompt,
            "completion": whole.removeprefix(prompt),
            "masked_prompt": _text(writes, card, masked["input_ids"][: masked["prompt_end"]].tolist(), adds_bos),
        }
        found = writes.encode_batch([prompt, whole])
        same = whole.startswith(prompt) and [one.ids for one in found] == [ids[:end], [*ids[:end], *answer]]
        yield ExportedRow(full["split"], row, same)


def _text(writes: Tokenizer, card: BaseCard, ids: Sequence[int], adds_bos: bool) -> str:
    """Decode tokens, control tokens by their names."""
    starts = int(adds_bos and ids[0] == card.bos_id)
    return str(writes.decode(list(ids[starts:]), skip_special_tokens=False))


def card(counts: Mapping[str, int], method: str | None, num_other: int) -> str:
    """Write the dataset card: README.md, in the form that the Hugging Face hub and `datasets` read."""
    data = DatasetCardData(
        license="unknown",
        task_categories=["question-answering", "text-generation"],
        tags=["focused-learning", "long-context"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.jsonl"} for split in counts],
            }
        ],
    )
    base = base_card.read_card()
    digests = tables.require_together(tables.FULL_VIEWS, tables.EXAMPLES, tables.MASKED_VIEWS)
    listed = "\n".join(f"| {name} | `{digest}` |" for name, digest in digests.items())
    sizes = "\n".join(f"| {split} | {num:,} |" for split, num in counts.items())
    told = " Completions of train and unlabelled are a teacher's answers, not references." if method == GUIDED else ""
    return f"""---
{data.to_yaml()}
---

# Prompts and completions

Questions over long contexts, written by a pipeline of focused learning
([arXiv:2411.05928](https://arxiv.org/abs/2411.05928)) for the tokenizer of `{base.source}`.{told}

| split | rows |
|---|--:|
{sizes}

- `prompt`: instruction, documents and question, in the wording of the pipeline.
- `completion`: the answer, without the end-of-text token, which trainers add.
- `masked_prompt`: the prompt in which the chunks that the retriever did not choose are masked.
- `answers`: all references; `options` and `gold_option` where the question has options.

`prompt` and `completion` are the columns of TRL's prompt-completion format. The tokenizer of the base makes the tokens
of the pipeline's full views of them, but for {num_other:,} rows.

| made from | sha256 |
|---|---|
| tokenizer | `{base.tokenizer_sha256}` |
{listed}

The licence is that of the documents and questions, which is not known here.
"""


if __name__ == "__main__":
    run(main)
