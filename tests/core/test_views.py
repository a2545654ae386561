"""The full view, with a tokenizer whose tokens are code points."""

from pipeline.core import prompts, views
from pipeline.core.views import ContextChunk

BOS, EOS = 1, 2


def encode(text):
    return [ord(letter) for letter in text]


def decode(ids):
    return "".join(chr(i) for i in ids)


def test_layout_of_two_documents_one_cut_in_two():
    chunks = [
        ContextChunk("a#0", "a", "Ada", "One. "),
        ContextChunk("a#1", "a", "Ada", "Two."),
        ContextChunk("b#0", "b", "", "Three."),
    ]
    view = views.full_view(chunks, "Who?", "It was", "Ada", encode, bos_id=BOS, eos_id=EOS)
    spans = list(zip(view.chunk_starts, view.chunk_ends, strict=True))
    assert [decode(view.input_ids[s:e]) for s, e in spans] == [
        "Document (Title: Ada): One. ",
        "Two.\n",
        "Document: Three.\n",
    ]
    assert view.input_ids[0] == BOS
    assert view.input_ids[-1] == EOS
    prompt = decode(view.input_ids[1 : view.prompt_end])
    assert prompt.startswith(prompts.INSTRUCTION)
    assert prompt.endswith("Document: Three.\nQuestion: Who?\nAnswer: It was")
    assert decode(view.input_ids[view.prompt_end : -1]) == " Ada"


def test_a_chunk_has_the_same_tokens_in_any_context():
    chunk = ContextChunk("a#0", "a", "Ada", "One.")
    other = ContextChunk("b#0", "b", "Bob", "Two.")
    alone = views.full_view([chunk], "Q?", "", "x", encode, bos_id=BOS, eos_id=EOS)
    behind = views.full_view([other, chunk], "Q?", "", "x", encode, bos_id=BOS, eos_id=EOS)
    assert (
        alone.input_ids[alone.chunk_starts[0] : alone.chunk_ends[0]]
        == behind.input_ids[behind.chunk_starts[1] : behind.chunk_ends[1]]
    )
