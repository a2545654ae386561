"""The base's chat template, taken apart once: what it writes before a question, behind it, and behind an answer."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.runtime.errors import ArtifactError, ConfigError, one_line

QUESTION, ANSWER = "the-question", "the-answer"


class Frame(NamedTuple):
    """A conversation of one question and one answer is head + question + turn + answer + the token `end_id`."""

    head: str
    """BOS and system prompt included, where the template writes them."""
    turn: str
    end_id: int


def frame(tokenizer: Any, source: str, template_kwargs: Mapping[str, str | int | bool]) -> Frame:
    """Render the template of a tokenizer of transformers; `source` is named in errors.

    Raises:
        ConfigError: there is no template, its output depends on the day, or `template_kwargs` are no variables of it.
        ArtifactError: the template fails, changes what it is given, or ends an answer with no special token.
    """
    plain = "set model.prompt to plain"
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model.prompt is chat, but the tokenizer of {source} has no chat template; {plain}, or choose an instruct "
            "model"
        )
    ours = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    if taken := ours & template_kwargs.keys():
        raise ConfigError(
            f"model.chat_template_kwargs.{min(taken)} is an argument of apply_chat_template, which the pipeline sets "
            "by itself; give variables of the template alone"
        )
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **template_kwargs)
    except Exception as error:  # a template is a program: it may raise anything
        raise ArtifactError(f"{source}: its chat template fails ({one_line(error)}); {plain}") from None
    try:  # a template that asks for the day finds no function there
        undated = tokenizer.apply_chat_template(messages, tokenize=False, **{**template_kwargs, "strftime_now": ""})
    except TypeError:
        undated = None
    if undated != text:
        raise ConfigError(
            f"{source}: its chat template writes the day into every prompt, so no run could be repeated; give it a "
            "fixed one (Llama 3: model.chat_template_kwargs: {date_string: 26 Jul 2024}), or " + plain
        )
    head, _, rest = text.partition(QUESTION)
    turn, _, end = rest.partition(ANSWER)
    if (text.count(QUESTION), rest.count(ANSWER)) != (1, 1) or not turn or ANSWER in head:
        raise ArtifactError(f"{source}: its chat template does not write question and answer once, in order; {plain}")
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    end_ids = tokenizer(end.lstrip(), add_special_tokens=False)["input_ids"]
    if not end_ids or end_ids[0] not in special:
        raise ArtifactError(
            f"{source}: its chat template ends an answer with {end!r}, which is no special token, so that an answer "
            f"would have no end; {plain}"
        )
    return Frame(head, turn, end_ids[0])
