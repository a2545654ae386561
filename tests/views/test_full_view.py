"""The full view, with a tokenizer whose tokens are code points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.views import full_view, prompts
from pipeline.views.full_view import Context, ContextChunk

BOS, EOS = 1, 2
INSTRUCTION = "Do."


def encode(text):
    return [ord(letter) for letter in text]


def decode(ids):
    return "".join(chr(i) for i in ids)


def lay(chunks):
    return full_view.context(chunks, INSTRUCTION, encode, BOS)


def test_layout_of_two_documents_one_cut_in_two():
    chunks = [
        ContextChunk("a#0", "a", "Ada", "One. "),
        ContextChunk("a#1", "a", "Ada", "Two."),
        ContextChunk("b#0", "b", "", "Three."),
    ]
    question = prompts.question_segment("Who?", "It was")
    view = full_view.full_view(lay(chunks), encode(question), encode(prompts.answer_segment("Ada")), EOS)
    spans = list(zip(view.chunk_starts, view.chunk_ends, strict=True))
    assert [decode(view.input_ids[s:e]) for s, e in spans] == [
        "Document (Title: Ada): One. ",
        "Two.\n",
        "Document: Three.\n",
    ]
    assert view.input_ids[0] == BOS
    assert view.input_ids[-1] == EOS
    prompt = decode(view.input_ids[1 : view.prompt_end])
    assert prompt.startswith("Do.\nDocument (Title: Ada)")
    assert prompt.endswith("Document: Three.\nQuestion: Who?\nAnswer: It was")
    assert view.question_start == view.chunk_ends[-1]
    assert decode(view.input_ids[view.question_start : view.prompt_end]) == "Question: Who?\nAnswer: It was"
    assert decode(view.input_ids[view.prompt_end : -1]) == " Ada"


def test_options_stand_under_their_letters_and_the_letter_is_the_answer():
    assert prompts.question_segment("Why?", "", ["Rain", "Snow"]) == "Question: Why?\n(A) Rain\n(B) Snow\nAnswer:"
    assert prompts.target(["Snow"], 1) == "B"
    assert prompts.target(["Snow", "Sleet"], -1) == "Snow"


def test_a_chunk_has_the_same_tokens_in_any_context():
    chunk = ContextChunk("a#0", "a", "Ada", "One.")
    other = ContextChunk("b#0", "b", "Bob", "Two.")
    alone, behind = lay([chunk]), lay([other, chunk])
    assert (
        alone.input_ids[alone.chunk_starts[0] : alone.chunk_ends[0]]
        == behind.input_ids[behind.chunk_starts[1] : behind.chunk_ends[1]]
    )


LAID = Context([1, 2, 10, 11, 12, 20, 21, 22, 30, 31], [2, 5, 8], [5, 8, 10])


@pytest.mark.parametrize(
    ("max_tokens", "where", "expected"),
    [
        (10, "cut_end", LAID),
        (7, "cut_end", Context([1, 2, 10, 11, 12, 20, 31], [2, 5, 6], [5, 6, 7])),
        (5, "cut_end", Context([1, 2, 10, 11, 31], [2, 4, 4], [4, 4, 5])),
        (7, "cut_middle", Context([1, 2, 10, 11, 22, 30, 31], [2, 4, 5], [4, 5, 7])),
        (4, "cut_middle", Context([1, 2, 10, 31], [2, 3, 3], [3, 3, 4])),
        (3, "cut_middle", Context([1, 2, 31], [2, 2, 2], [2, 2, 3])),
    ],
)
def test_a_cut_keeps_head_and_last_token_and_moves_the_spans(max_tokens, where, expected):
    assert full_view.cut(LAID, max_tokens, where) == expected


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    head=st.integers(1, 3),
    room=st.integers(1, 40),
    where=st.sampled_from(["cut_end", "cut_middle"]),
)
def test_after_any_cut_each_chunk_holds_a_part_of_itself_in_order(lengths, head, room, where):
    ids = list(range(head + sum(lengths)))
    starts = [head + sum(lengths[:place]) for place in range(len(lengths))]
    laid = Context(ids, starts, [start + length for start, length in zip(starts, lengths, strict=True)])
    found = full_view.cut(laid, head + room, where)
    assert len(found.input_ids) == min(len(ids), head + room)
    assert found.input_ids == sorted(set(found.input_ids)) and found.input_ids[:head] == ids[:head]
    assert found.input_ids[-1] == ids[-1]
    assert (found.chunk_starts[0], found.chunk_ends[-1]) == (head, len(found.input_ids))
    for before, after in zip(
        zip(laid.chunk_starts, laid.chunk_ends, strict=True),
        zip(found.chunk_starts, found.chunk_ends, strict=True),
        strict=True,
    ):
        assert set(found.input_ids[slice(*after)]) == set(found.input_ids) & set(ids[slice(*before)])
