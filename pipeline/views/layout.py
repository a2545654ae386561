"""Token ids of a prompt and its answer, plain or within the base's chat template, and which tokens are which chunk's.

Each document, question and answer is tokenized once, as it is tokenized within the whole prompt: between the letters
that surround it there. So the ids are those of the whole text (for a chat, those of `tokenizer.apply_chat_template`),
while a document has the same tokens in every context that it opens a line of. Only chunks that share a token (a blank
and the word behind it) have to part with it: the token belongs to the chunk in which it ends.

`<mask>` or `</s>` inside a document, a question or an answer is text and never becomes a control token.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

from tokenizers import Encoding, Tokenizer

from pipeline.common.base_card import BaseCard
from pipeline.common.chunks import Chunk
from pipeline.views import prompts
from pipeline.views.full_view import Context, Ids

ANY_LETTER = "A"  # stands for the text behind a line end: whatever it is, it does not begin with white space
MAX_HELD = 64_000_000  # token ids of documents in memory: 256 MB


class Layout:
    """Writes contexts, questions and answers for one base."""

    def __init__(self, tokenizer: Tokenizer, card: BaseCard) -> None:
        self._tokenizer = tokenizer
        # A chat template brings its own BOS.
        self._bos_ids = [card.bos_id] if card.chat_head is None and card.bos_id is not None else []
        self._head = card.chat_head or ""
        whole_turn = prompts.PLAIN_TURN if card.chat_turn is None else card.chat_turn
        turn = whole_turn.removesuffix(" ")
        self._blank = whole_turn[len(turn) :]
        """A blank before the answer is the answer's: at the end of the prompt it would be a token of its own."""
        found = self._with_control_tokens(turn)
        controls = tokenizer.get_added_tokens_decoder()
        spans = [span for span, token in zip(found.offsets, found.ids, strict=True) if token in controls]
        start, end = (spans[0][0], spans[-1][1]) if spans else (len(turn), 0)
        self._asks, self._opens = turn[:start], turn[end:]
        """The turn's text before its first control token, and behind its last one; both are all of it without one."""
        self._behind = "" if self._blank else ANY_LETTER
        found = self._with_control_tokens(turn[start:] + self._behind)
        self._turn_ids = found.ids[: _num_ended(found, len(turn) - start)]
        self._ids_of: dict[bytes, list[array[int]]] = {}
        """What is known of documents, which stand in many contexts each, by a digest of their segments."""
        self._num_held = 0

    def context(self, chunks: Sequence[Chunk], instruction: str) -> Context:
        """Lay out the chunks, which are in context order; those of one document follow each other."""
        head = self._head + prompts.instruction_segment(instruction)
        found = self._with_control_tokens(head + ANY_LETTER)
        ids = [*self._bos_ids, *found.ids[: _num_ended(found, len(head))]]
        starts, ends = [], []
        for _, group in groupby(chunks, key=lambda chunk: chunk.document_id):
            document = list(group)
            segments = tuple(
                prompts.chunk_segment(
                    chunk.title, chunk.text, opens_document=index == 0, closes_document=index + 1 == len(document)
                )
                for index, chunk in enumerate(document)
            )
            for chunk_ids in self._document(segments):
                starts.append(len(ids))
                ids += chunk_ids
                ends.append(len(ids))
        return Context(ids, starts, ends)

    def question(self, question: str, answer_lead: str, options: Sequence[str] = ()) -> Ids:
        """Token ids behind the context, up to where the answer begins."""
        asked = prompts.question_segment(question, options) + self._asks
        lead = self._blank + answer_lead if answer_lead else ""
        if not self._turn_ids:
            return self._between("\n", asked + lead, "" if lead else self._behind)
        return [*self._between("\n", asked), *self._turn_ids, *self._between(self._opens, lead)]

    def answer(self, answer: str, answer_lead: str = "") -> Ids:
        """Token ids of what is trained on and generated, before EOS."""
        blank = " " if answer_lead else self._blank
        return self._between(self._opens + answer_lead, blank + answer.strip())

    def _document(self, segments: tuple[str, ...]) -> "list[array[int]]":
        """Token ids of each chunk of a document, from memory where it has them."""
        key = hashlib.blake2b(repr(segments).encode(), digest_size=16).digest()
        if (found := self._ids_of.get(key)) is None:
            if self._num_held > MAX_HELD:
                self._ids_of.clear()
                self._num_held = 0
            found = self._ids_of[key] = self._document_of(segments)
            self._num_held += sum(map(len, found))
        return found

    def _document_of(self, segments: tuple[str, ...]) -> "list[array[int]]":
        found = self._tokenizer.encode("\n" + "".join(segments) + ANY_LETTER, add_special_tokens=False)
        places = [_num_ended(found, end) for end in accumulate(map(len, segments), initial=1)]
        ids = array("i", found.ids)  # an eighth of a list of numbers
        return [ids[start:end] for start, end in pairwise(places)]

    def _between(self, before: str, text: str, behind: str = "") -> list[int]:
        """Token ids of the text where it stands between two others."""
        found = self._tokenizer.encode(before + text + behind, add_special_tokens=False)
        first = _num_ended(found, len(before)) if before else 0
        return list(found.ids[first : _num_ended(found, len(before + text))])

    def _with_control_tokens(self, text: str) -> Encoding:
        """Encode text of the template or of ours, in which a control token's name stands for the token."""
        self._tokenizer.encode_special_tokens = False
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = True


def _num_ended(encoding: Encoding, end: int) -> int:
    """Count the tokens that end within the first `end` characters."""
    return bisect_right([token_end for _, token_end in encoding.offsets], end)
