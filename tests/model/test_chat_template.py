"""A chat template taken apart, and every kind that is refused before anything is computed."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.common import base_card
from pipeline.model import chat_template
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.stages import base
from tests.model.test_loading import make_project
from tests.views import letters
from tests.views.test_layout import TEMPLATES, of_transformers

LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}"
    "<|im_start|>system\nToday Date: {{ date_string }}<|im_end|>\n" + TEMPLATES["chatml"]
)
"""The date as in Llama 3's template."""
QWEN_3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The empty thoughts that Qwen 3's template writes before the last answer."""


def frame(template, **template_kwargs):
    return chat_template.frame(of_transformers(template), "letters", template_kwargs)


def test_a_template_in_its_parts():
    assert frame(TEMPLATES["chatml"]) == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", letters.END)
    assert frame(TEMPLATES["no control token between"]) == ("<s>[INST] ", " [/INST] ", letters.EOS)


def test_a_default_system_prompt_is_part_of_the_head():
    head = frame(TEMPLATES["default system prompt"]).head
    assert head == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"


def test_a_model_that_may_think_is_asked_for_its_answer():
    tokenizer = of_transformers(QWEN_3)
    found = frame(QWEN_3)
    asked = [{"role": "user", "content": "Who?"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert f"{found.head}Who?{found.turn}" == prompt


def test_a_day_is_refused_unless_it_is_fixed():
    with pytest.raises(ConfigError, match=r"writes the day into every prompt.* model\.chat_template_kwargs"):
        frame(LLAMA_3)
    assert "Today Date: 26 Jul 2024<" in frame(LLAMA_3, date_string="26 Jul 2024").head


@pytest.mark.parametrize("name", ["messages", "tokenize", "add_generation_prompt", "chat_template"])
def test_what_the_pipeline_sets_is_no_variable_of_the_template(name):
    with pytest.raises(ConfigError, match=rf"model\.chat_template_kwargs\.{name} is an argument of apply_"):
        frame(TEMPLATES["chatml"], **{name: True})


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, ConfigError, "the tokenizer of letters has no chat template; set model.prompt to plain"),
        ("{{ raise_exception('no\nuser') }}", ArtifactError, r"its chat template fails \(.*no user"),
        ("{% for m in messages", ArtifactError, "its chat template fails"),
        ("{{ messages[0].content }}", ArtifactError, "does not write question and answer once"),
        ("{{ messages[0].content + messages[0].content + messages[1].content }}</s>", ArtifactError, "once, in order"),
        ("{{ messages[1].content }} {{ messages[0].content }}</s>", ArtifactError, "once, in order"),
        ("{{ messages[0].content | upper }} {{ messages[1].content }}</s>", ArtifactError, "once, in order"),
        (
            "{{ messages[0].content }} {{ messages[1].content }}\n",
            ArtifactError,
            "ends an answer with '.*', which is no",
        ),
        ("{{ messages[0].content }} {{ messages[1].content }}End</s>", ArtifactError, "ends an answer with 'End</s>'"),
    ],
)
def test_what_no_chat_can_be_written_with_is_one_line(template, error, message):
    with pytest.raises(error, match=message) as caught:
        frame(template)
    assert "\n" not in str(caught.value)


def project(folder: Path, template: str | None) -> None:
    make_project(folder, prompt="chat")
    if template is not None:
        (folder / "models/tiny-base/chat_template.jinja").write_text(template)


def test_stage_base_refuses_a_base_without_a_template(tmp_path, monkeypatch):
    project(tmp_path, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the tokenizer of models/tiny-base has no chat template"):
        base.main()
    assert not base_card.BASE.exists()


def test_stage_base_writes_the_parts_and_the_template(tmp_path, monkeypatch, capsys):
    project(tmp_path, "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}")
    monkeypatch.chdir(tmp_path)
    base.main()
    card = base_card.read_card()
    tokenizer = AutoTokenizer.from_pretrained(base_card.BASE)
    assert tokenizer.chat_template
    assert card.chat_head == f"{tokenizer.bos_token}[user] "
    assert card.chat_turn == f"{tokenizer.eos_token}[assistant] "
    assert card.eos_id == tokenizer.eos_token_id
    assert "chat prompts begin with" in capsys.readouterr().out


def test_a_template_that_changes_the_text_is_refused(tmp_path, monkeypatch):
    project(
        tmp_path,
        "{% for m in messages %}[{{ m.role }}] {{ m.content | replace('Ada', 'X') }}{{ eos_token }}{% endfor %}",
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="gives a conversation other tokens than its parts"):
        base.main()
    assert not base_card.BASE.exists()
