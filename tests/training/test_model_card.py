"""The model card: what the hub's own reader finds in it, and that equal inputs give equal bytes."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from pipeline.common.base_card import BaseCard
from pipeline.runtime import methods
from pipeline.training import model_card
from pipeline.training.model_card import Facts, Result

BASE = BaseCard("owner/Base-7B", "rev1", "a" * 64, 32_002, "b" * 64, 1, [2], 32_001, 32_000)
PART = {"trained": 4, "of": 5, "modules": [], "parameters": 6}
SETTINGS = {"lora": {"rank": 8, "norms": True}, "train": {"learning_rate": 2.5e-7}, "model": {"revision": None}}
RESULT = Result("bios", "test", "full", 12, "exact_match", 0.515, 0.476, 0.5549, 512)
FACTS = Facts("commit 1234567890ab of 2026-01-02, the tree is clean", "c" * 64, [RESULT])


def trained(method: str = "focused") -> dict[str, object]:
    record = model_card.record(method, SETTINGS, {"full views": "d" * 64})
    return json.loads(json.dumps(record)) | dict.fromkeys(("attention", "norms", "embedding"), PART)


def read(text: str) -> tuple[dict[str, object], str]:
    card = ModelCard(text)
    return card.data.to_dict(), card.text


@pytest.mark.parametrize("method", methods.TRAINED)
def test_an_adapters_card_after_training(method: str):
    text = model_card.render(trained(method), BASE, base_on_hub=True)
    data, body = read(text)
    assert data == {
        "base_model": "owner/Base-7B",
        "library_name": "peft",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["focused-learning", "long-context", "question-answering", "arxiv:2411.05928", "lora"],
    }
    assert "# Base-7B-" + method in body and "made of the base model `owner/Base-7B` at revision rev1" in body
    assert "AutoPeftModelForCausalLM.from_pretrained(folder)" in body and "arXiv:2411.05928" in body
    assert "| `train.learning_rate` | `2.5e-07` |" in body and "| `model.revision` | `null` |" in body
    assert f"| full views | `{'d' * 64}` |" in body and f"| weights of the base | `{'a' * 64}` |" in body
    assert "4 of 5 modules of norms" in body
    assert "Results" not in body and "Code:" not in body and "\n## Limits\n" in body
    assert text == model_card.render(trained(method), BASE, base_on_hub=True)


def test_every_method_has_its_own_two_sentences_and_ours_is_not_called_the_papers():
    first = [model_card.render(trained(method), BASE, base_on_hub=True).split("\n## ")[0] for method in methods.TRAINED]
    assert len({text.split("rev1. ")[1] for text in first}) == len(methods.TRAINED)
    assert ["This method is ours" in text for text in first] == [method == "guided" for method in methods.TRAINED]


def test_a_method_that_somebody_adds_is_named():
    assert "It was tuned by method `mine` of" in model_card.render(trained("mine"), BASE, base_on_hub=True)


def test_a_merged_models_card_has_its_results_for_the_hub_and_for_people():
    data, body = read(model_card.render(trained(), BASE, base_on_hub=True, merged=True, facts=FACTS))
    assert data["library_name"] == "transformers" and "lora" not in data["tags"]
    [index] = data["model-index"]
    [result] = index["results"]
    assert index["name"] == "Base-7B-focused"
    asked = {"name": "bios, 12 documents", "config": "12 documents", "type": "bios", "split": "test"}
    assert result["dataset"] == asked
    assert result["metrics"] == [{"type": "exact_match", "value": 0.515}]
    assert "| bios | test | 12 documents | exact match | 51.5 | 47.6 to 55.5 | 512 |" in body
    assert f"Code: {FACTS.commit}." in body and f"| weights of the adapter | `{'c' * 64}` |" in body
    assert "AutoModelForCausalLM.from_pretrained(folder)" in body and "PEFT" not in body


def test_results_of_another_state_are_not_given():
    facts = FACTS._replace(results=[], why_no_results="the model has not been evaluated")
    data, body = read(model_card.render(trained(), BASE, base_on_hub=True, facts=facts))
    assert "None are given: the model has not been evaluated." in body and "model-index" not in data


def test_a_base_that_is_a_local_folder_is_no_link_on_the_hub():
    local = replace(BASE, source="models/tiny-base", revision=None)
    data, body = read(model_card.render(trained(), local, base_on_hub=False))
    assert "base_model" not in data and "made of the base model `models/tiny-base`. It was" in body
