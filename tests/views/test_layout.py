"""Prompts as token ids: those of the whole text, plain or as transformers renders a chat; chunks have theirs."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pipeline.common.chunks import Chunk
from pipeline.model import chat_template
from pipeline.views import full_view, masking, prompts
from pipeline.views.layout import Layout
from tests.views import letters

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "default system prompt": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "no control token between": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} "
    "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "blank before the answer": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>"
    "{{ m.content }}<|im_end|>{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "two line ends": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n\n"
    "{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}",
}
TOKENIZER = letters.tokenizer()
INSTRUCTION = "Do."


def of_transformers(template):
    names = dict(zip(("pad_token", "bos_token", "eos_token", "mask_token"), letters.CONTROLS, strict=False))
    more = letters.CONTROLS[4:]
    made = PreTrainedTokenizerFast(tokenizer_object=letters.tokenizer(), additional_special_tokens=more, **names)
    made.chat_template = template
    return made


CHATS = {name: of_transformers(template) for name, template in TEMPLATES.items()}


def chat_card(name):
    frame = chat_template.frame(CHATS[name], "letters", {})
    return replace(letters.CARD, chat_head=frame.head, chat_turn=frame.turn, eos_ids=[frame.end_id])


CARDS = {"plain": letters.CARD} | {name: chat_card(name) for name in TEMPLATES}
LAYOUTS = {name: Layout(TOKENIZER, card) for name, card in CARDS.items()}
PLAIN = LAYOUTS["plain"]


def decode(ids):
    return TOKENIZER.decode(list(ids), skip_special_tokens=False)


def spans(context):
    pairs = zip(context.chunk_starts, context.chunk_ends, strict=True)
    return [decode(context.input_ids[start:end]) for start, end in pairs]


def test_a_plain_prompt_of_two_documents_one_cut_in_two():
    chunks = [
        Chunk("a#0", "a", "Ada", "One.\n\n"),
        Chunk("a#1", "a", "Ada", "Two."),
        Chunk("b#0", "b", "", "Three."),
    ]
    laid = PLAIN.context(chunks, INSTRUCTION)
    view = full_view.full_view(laid, PLAIN.question("Who?", "It was"), PLAIN.answer("Ada", "It was"), letters.EOS)
    assert spans(laid) == ["Document (Title: Ada): One.\n\n", "Two.\n", "Document: Three.\n"]
    assert (view.input_ids[0], view.input_ids[-1]) == (letters.BOS, letters.EOS)
    prompt = decode(view.input_ids[1 : view.prompt_end])
    assert prompt.startswith("Do.\nDocument (Title: Ada): One.\n\nTwo.\nDocument")
    assert prompt.endswith("Document: Three.\nQuestion: Who?\nAnswer: It was")
    assert view.question_start == view.chunk_ends[-1]
    assert decode(view.input_ids[view.question_start : view.prompt_end]) == "Question: Who?\nAnswer: It was"
    assert decode(view.input_ids[view.prompt_end : -1]) == " Ada"


def test_options_stand_under_their_letters_and_the_letter_is_the_answer():
    assert decode(PLAIN.question("Why?", "", ["Rain", "Snow"])) == "Question: Why?\n(A) Rain\n(B) Snow\nAnswer:"
    assert prompts.target(["Snow"], 1) == "B"
    assert prompts.target(["Snow", "Sleet"], -1) == "Snow"


def test_a_document_has_the_same_tokens_in_any_context():
    chunk = Chunk("a#0", "a", "Ada", "One.")
    other = Chunk("b#0", "b", "Bob", "Two.")
    alone, behind = PLAIN.context([chunk], INSTRUCTION), PLAIN.context([other, chunk], INSTRUCTION)
    assert (
        alone.input_ids[alone.chunk_starts[0] : alone.chunk_ends[0]]
        == behind.input_ids[behind.chunk_starts[1] : behind.chunk_ends[1]]
    )


def test_what_is_known_of_documents_is_let_go_when_it_is_much(monkeypatch):
    monkeypatch.setattr("pipeline.views.layout.MAX_HELD", 40)
    found = Layout(TOKENIZER, letters.CARD)
    for number in range(20):
        # The same letters in other chunks are another document.
        for texts in (["Ada ", f"is {number}."], [f"Ada is {number}."]):
            chunks = [Chunk(f"a#{place}", "a", "Ada", text) for place, text in enumerate(texts)]
            fresh = Layout(TOKENIZER, letters.CARD).context(chunks, INSTRUCTION)
            assert found.context(chunks, INSTRUCTION) == fresh == found.context(chunks, INSTRUCTION)
        held = sum(len(ids) for document in found._ids_of.values() for ids in document)
        assert held == found._num_held < 40 + len(fresh.input_ids)


def test_a_blank_between_two_chunks_goes_with_the_word_behind_it():
    chunks = [Chunk("a#0", "a", "", "in London. "), Chunk("a#1", "a", "", "Bob was not.")]
    laid = PLAIN.context(chunks, INSTRUCTION)
    assert spans(laid) == ["Document: in London.", " Bob was not.\n"]


def test_a_name_of_a_control_token_in_a_text_is_text():
    text = "</s><mask><|im_end|>"
    for layout in LAYOUTS.values():
        laid = layout.context([Chunk("a#0", "a", text, text)], INSTRUCTION)
        asked, answer = layout.question(text, text, [text]), layout.answer(text)
        assert spans(laid) == [f"Document (Title: {text}): {text}\n"]
        inside = {*laid.input_ids[laid.chunk_starts[0] :], *answer}
        assert not inside & set(range(6))
        assert text in decode(asked) and decode(answer).strip() == text
        assert letters.MASK not in asked


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_ends_with_the_end_of_the_turn(name):
    view = whole_view(name, [[("", "One.")]], "Who?", "", [], "Ada")
    expected = letters.END if name in ("chatml", "default system prompt") else letters.EOS
    assert view.input_ids[-1] == CARDS[name].eos_id == expected
    assert decode(view.input_ids[view.prompt_end : -1]).strip() == "Ada"
    assert view.input_ids.count(letters.BOS) == (name not in ("chatml", "default system prompt"))


def chunks_of(documents):
    """Documents are lists of chunks with their title."""
    return [
        Chunk(f"{number}#{place}", str(number), title, text)
        for number, document in enumerate(documents)
        for place, (title, text) in enumerate(document)
    ]


def whole_view(name, documents, question, lead, options, answer):
    layout = LAYOUTS[name]
    laid = layout.context(chunks_of(documents), INSTRUCTION)
    asked, answered = layout.question(question, lead, options), layout.answer(answer, lead)
    return full_view.full_view(laid, asked, answered, CARDS[name].eos_id)


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LIKELY = st.sampled_from([" ", "\n", "  ", "\n\n", ".", "London", " born", "é", "1815", "日本", "\t", "\r\n"])
TEXT = st.lists(ANY | LIKELY, max_size=6).map("".join)
LINE = TEXT.map(lambda text: text.strip() or "x")
DOCUMENT = st.tuples(LINE, st.lists(TEXT.filter(str.strip), min_size=1, max_size=3)).map(
    lambda pair: [(pair[0], text) for text in pair[1]]
)
PROMPT = {
    "documents": st.lists(DOCUMENT, max_size=3),
    "question": LINE,
    "lead": st.just("") | LINE,
    "options": st.lists(LINE, max_size=2),
    "answer": LINE,
}


def content(documents, question, options):
    text = prompts.instruction_segment(INSTRUCTION)
    for document in documents:
        title = document[0][0]
        text += prompts.chunk_segment(
            title, "".join(chunk for _, chunk in document), opens_document=True, closes_document=True
        )
    return text + prompts.question_segment(question, options)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(TEMPLATES)), **PROMPT)
def test_a_chat_has_the_ids_that_transformers_gives_the_whole_of_it(name, documents, question, lead, options, answer):
    tokenizer = CHATS[name]
    said = f"{lead} {answer}" if lead else answer
    asked = {"role": "user", "content": content(documents, question, options)}
    # To transformers the name of a control token is that token; to us it is text.
    assume(not any(control in asked["content"] + said for control in tokenizer.all_special_tokens))
    messages = [asked, {"role": "assistant", "content": said}]
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    view = whole_view(name, documents, question, lead, options, answer)
    assert view.input_ids[:-1] == whole[: len(view.input_ids) - 1]
    assert whole[len(view.input_ids) - 1] == CARDS[name].eos_id
    if not lead and name != "two line ends":  # GPT-2's pieces join line ends only where nothing follows
        prompt = tokenizer.apply_chat_template([asked], return_dict=False, add_generation_prompt=True)
        assert view.input_ids[: view.prompt_end] == prompt


@settings(max_examples=100, deadline=None)
@given(**PROMPT)
def test_a_plain_prompt_has_the_ids_of_the_whole_text(documents, question, lead, options, answer):
    opening = f"{lead} " if lead else ""
    text = content(documents, question, options) + prompts.PLAIN_TURN + opening + answer
    view = whole_view("plain", documents, question, lead, options, answer)
    assert view.input_ids[1:-1] == TOKENIZER.encode(text).ids


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize(
    ("head", "turn"),
    [
        (None, None),
        ("<s>[INST] ", " [/INST] "),
        ("<s>[INST]", " [/INST]<|im_end|> "),
        ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
@pytest.mark.parametrize("lead", ["", "It was"])
def test_words_with_a_mark_before_them_have_the_ids_of_the_whole_text(scheme, head, turn, lead):
    tokenizer = letters.sentencepiece(scheme)
    layout = Layout(tokenizer, replace(letters.CARD, chat_head=head, chat_turn=turn))
    documents = [[("Ada", "born in 1815. "), ("Ada", "Bob was\n\n")], [("", "not.")]]
    laid = layout.context(chunks_of(documents), INSTRUCTION)
    ids = [*laid.input_ids, *layout.question("Who?", lead), *layout.answer("Ada", lead)]
    text = content(documents, "Who?", []) + (turn or prompts.PLAIN_TURN) + (f"{lead} Ada" if lead else "Ada")
    tokenizer.encode_special_tokens = False
    whole = tokenizer.encode((head or "") + text, add_special_tokens=False).ids
    assert ids == ([letters.BOS] if head is None else []) + whole


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(LAYOUTS)), **PROMPT)
def test_spans_hold_their_chunks_and_nothing_else(name, documents, question, lead, options, answer):
    view = whole_view(name, documents, question, lead, options, answer)
    expected = [
        prompts.chunk_segment(title, text, opens_document=place == 0, closes_document=place + 1 == len(document))
        for document in documents
        for place, (title, text) in enumerate(document)
    ]
    found = spans(view)
    assert "".join(found) == "".join(expected)
    for of_tokens, segment in zip(found, expected, strict=True):
        assert of_tokens.strip() == segment.strip()
    ends = [*view.chunk_starts[1:], view.question_start]
    assert view.chunk_ends == (ends if expected else [])
    assert decode(view.input_ids[view.question_start :]).startswith(prompts.question_segment(question, options))
    kept = [number % 2 == 0 for number in range(len(expected))]
    masked = masking.masked_view(
        view.input_ids, view.chunk_starts, view.chunk_ends, view.prompt_end, kept, "token", letters.MASK
    )
    hidden = sum(e - s for s, e, k in zip(view.chunk_starts, view.chunk_ends, kept, strict=True) if not k)
    assert (masked.input_ids == letters.MASK).sum() == hidden
    assert masked.input_ids[view.question_start :].tolist() == view.input_ids[view.question_start :]


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(list(LAYOUTS)), other=LINE, **PROMPT)
def test_questions_share_the_tokens_of_their_context(name, other, documents, question, lead, options, answer):
    one = whole_view(name, documents, question, lead, options, answer)
    two = whole_view(name, documents, other, "", [], "x")
    assert one.question_start == two.question_start
    assert one.input_ids[: one.question_start] == two.input_ids[: two.question_start]
