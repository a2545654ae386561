"""The model card: README.md of an adapter and of a merged model, in the form that the Hugging Face hub reads.

Stage train writes the card of the adapter, so nothing in it changes between runs over equal inputs: no date, no commit,
no result. `make merge` and `make push` write it anew with the commit, and with the results where they belong to it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from pipeline.common.base_card import BaseCard
from pipeline.runtime import methods

README = "README.md"
PAPER = "2411.05928"
_PAPER_LINK = f"[arXiv:{PAPER}](https://arxiv.org/abs/{PAPER})"
_METHOD: dict[str, str] = {
    methods.VANILLA: (
        f"It was fine-tuned on questions over whole contexts and their reference answers. This is the plain baseline "
        f"of {_PAPER_LINK}."
    ),
    methods.FOCUSED: (
        f"It was tuned by focused learning ({_PAPER_LINK}): it learns the reference answers over the whole context and "
        "over a view in which the chunks that a retriever did not choose are masked. A contrastive loss ties both "
        "views together."
    ),
    methods.GUIDED: (
        "It was tuned by guided learning: it learns over the whole context what the untuned base answers over the best "
        "chunks of a retriever, and the retriever's scores teach its attention. This method is ours; it follows "
        f"focused learning ({_PAPER_LINK})."
    ),
}
_STATED = (
    "The paper states Mistral-7B as the base, Contriever as the retriever, LoRA on the projections of attention with "
    "embedding and norms trained too, a language-model loss on each view, a contrastive loss, and a few hundred steps. "
    "As far as we know it states no other value. Values in the table below that differ from these, or that the paper "
    "does not state, are choices of this project or of whoever trained the model."
)


class Result(NamedTuple):
    """A measure of the model on one input, from 0 to 1, with its 95 % interval over questions."""

    benchmark: str
    split: str
    input: str
    num_documents: int
    measure: str
    mean: float
    low: float
    high: float
    num_examples: int


class Facts(NamedTuple):
    """Facts of a training that is done."""

    commit: str
    adapter_sha256: str
    results: list[Result]
    why_no_results: str = ""


def record(method: str, settings: Mapping[str, Mapping[str, Any]], tables: Mapping[str, str]) -> dict[str, Any]:
    """Return what trained.json keeps for later cards.

    Args:
        settings: section -> key -> value; they are kept as JSON texts, so that no digit is lost.
        tables: the digests of the tables that were trained on, by their names.
    """
    flat = {f"{section}.{key}": json.dumps(value) for section, keys in settings.items() for key, value in keys.items()}
    return {"method": method, "settings": flat, "tables": dict(sorted(tables.items()))}


def render(
    trained: Mapping[str, Any], base: BaseCard, *, base_on_hub: bool, merged: bool = False, facts: Facts | None = None
) -> str:
    """Write the card.

    Args:
        trained: the content of trained.json.
        base_on_hub: whether `base.source` names a repository of the hub; a local path would link to a stranger's.
        merged: whether the folder holds a whole model; else an adapter.
        facts: None: at the end of training, where none is known.
    """
    method = trained["method"]
    name = f"{base.source.rstrip('/').rpartition('/')[2]}-{method}"
    data = ModelCardData(
        base_model=base.source if base_on_hub else None,
        library_name="transformers" if merged else "peft",
        license="unknown",
        pipeline_tag="text-generation",
        tags=[
            "focused-learning",
            "long-context",
            "question-answering",
            f"arxiv:{PAPER}",
            *([] if merged else ["lora"]),
        ],
        **_model_index(name, facts.results if facts else []),
    )
    sections = {
        "Use it": _usage(base, merged),
        **({"Results": _results(facts)} if facts else {}),
        "How it was made": _making(trained, base, facts),
        "Limits": _LIMITS,
    }
    kind = "A model" if merged else "A LoRA adapter"
    of_base = f"`{base.source}`" + (f" at revision {base.revision}" if base.revision else "")
    text = "".join(f"\n## {title}\n\n{section}\n" for title, section in sections.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{kind} that answers questions over long contexts without a "
        f"retriever, made of the base model {of_base}. {_told(method)}\n{text}"
    )


def _told(method: str) -> str:
    """Explain the method; one without words of its own here is named."""
    return _METHOD.get(method) or f"It was tuned by method `{method}` of the repository that wrote this card."


def _model_index(name: str, results: list[Result]) -> dict[str, Any]:
    if not results:
        return {}
    found = [
        EvalResult(
            task_type="question-answering",
            dataset_type=one.benchmark,
            dataset_name=f"{one.benchmark}, {_asked(one)}",
            dataset_config=_asked(one),  # results of one task, benchmark, config and split would be joined
            dataset_split=one.split,
            metric_type=one.measure,
            metric_value=round(one.mean, 4),
        )
        for one in results
    ]
    return {"model_name": name, "eval_results": found}


def _asked(result: Result) -> str:
    documents = f"{result.num_documents} document{'s' * (result.num_documents != 1)}"
    return documents if result.input == "full" else f"{documents}, {result.input} at inference"


def _usage(base: BaseCard, merged: bool) -> str:
    kind = "AutoModelForCausalLM" if merged else "AutoPeftModelForCausalLM"
    imports = f"from transformers import {kind}, AutoTokenizer\n"
    if not merged:
        imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer\n"
    notes = [
        "The prompt is an instruction, then the documents, then the question, each on lines of its own, "
        + ("within the chat template." if base.chat_head is not None else "and then `Answer:`.")
        + " `make export` writes the prompts of the data set as text; the model was trained on this wording alone."
    ]
    if not merged:
        notes.append(
            f"The tokenizer has {base.vocab_size:,} tokens with `<mask>` and `<pad>`, which may be more than the base "
            "has: PEFT resizes the embedding to it."
        )
    return (
        f"```python\n{imports}\n"
        f'folder = "."  # or the name of this repository on the hub\nmodel = {kind}.from_pretrained(folder)\n'
        f"tokenizer = AutoTokenizer.from_pretrained(folder)\n```\n\n" + "\n".join(notes)
    )


def _results(facts: Facts) -> str:
    if not facts.results:
        return f"None are given: {facts.why_no_results}."
    lines = [
        "| benchmark | split | input | measure | % | 95 % interval | questions asked |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {one.benchmark} | {one.split} | {_asked(one)} | {one.measure.replace('_', ' ')} | {100 * one.mean:.1f} | "
        f"{100 * one.low:.1f} to {100 * one.high:.1f} | {one.num_examples:,} |"
        for one in facts.results
    ]
    return "\n".join(lines) + "\n\nThis is one training run (one seed). Intervals resample the questions alone."


def _making(trained: Mapping[str, Any], base: BaseCard, facts: Facts | None) -> str:
    digests = {"weights of the base": base.sha256, "tokenizer": base.tokenizer_sha256, **trained["tables"]}
    if base.gguf_sha256 is not None:
        digests["GGUF file of the base"] = base.gguf_sha256
    if facts is not None:
        digests["weights of the adapter"] = facts.adapter_sha256
    parts = ["attention", "norms", "embedding"]
    covered = ", ".join(f"{trained[part]['trained']} of {trained[part]['of']} modules of {part}" for part in parts)
    return "\n".join([
        f"{_STATED} Trained are {covered} (`trained.json`).",
        "",
        *([f"Code: {facts.commit}.", ""] if facts else []),
        "| setting | value |", "|---|---|",
        *(f"| `{key}` | `{value}` |" for key, value in trained["settings"].items()),
        "",
        "| made from | sha256 |", "|---|---|",
        *(f"| {key} | `{value}` |" for key, value in digests.items()),
    ])  # fmt: skip


_LIMITS = """\
- The licence is not known here: it follows from the base and from the documents. Check both.
- The model can repeat texts that it was trained on, and it can be wrong: it has no way to say that it does not know,
  unless its data teach one.
- It was tuned for short answers to questions over given documents, in the wording above. Other uses were not tried."""
