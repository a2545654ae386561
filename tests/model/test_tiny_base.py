"""The base model that we ship: small, loadable both ways, able to read short contexts, its measured curve beside it."""

import hashlib
import importlib.util
import json

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.data.benchmarks import bios
from tests.conftest import ROOT

FOLDER = ROOT / "models" / "tiny-base"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("tiny_base_recipe", FOLDER / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_the_weights_are_small_and_the_ones_that_the_bundle_pins():
    data = (FOLDER / "model.safetensors").read_bytes()
    assert len(data) <= 8e6
    bundle = yaml.safe_load((FOLDER.parents[1] / "conf" / "model" / "tiny.yaml").read_text())
    assert bundle["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_config_is_a_mistral_without_a_window(network):
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert config["sliding_window"] is None
    assert config["max_position_embeddings"] == 4096
    assert not config["tie_word_embeddings"]
    assert network.config.sliding_window is None


def test_the_tokenizer_has_golden_ids_and_both_libraries_agree(tokenizer, network):
    text = "Document (Title: Alice Moreau): On Sundays Alice Moreau plays the cello by ear.\n"
    golden = [407, 406, 408, 29, 1218, 997, 403, 567, 744, 1218, 997, 387, 293, 2351, 890, 605, 17, 202]
    wrapped = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.encode(text).ids == golden
    assert wrapped(text, add_special_tokens=False).input_ids == golden
    assert tokenizer.decode(golden) == text
    assert tokenizer.get_vocab_size() == len(wrapped) == network.config.vocab_size


def test_specials_come_first_and_are_known_to_transformers(tokenizer):
    wrapped = AutoTokenizer.from_pretrained(FOLDER)
    assert [tokenizer.token_to_id(token) for token in ("<s>", "</s>", "<pad>", "<mask>")] == [0, 1, 2, 3]
    found = (wrapped.bos_token_id, wrapped.eos_token_id, wrapped.pad_token_id, wrapped.mask_token_id)
    assert found == (0, 1, 2, 3)
    assert wrapped.unk_token is None


@pytest.mark.parametrize(
    "text", ["naïve 漢字 🙂\u200d\n\ttab", "עברית 1,234.56 €", "a\u0301\x00\ufeff end", "</s><mask>"]
)
def test_any_text_survives_and_never_becomes_a_control_token(tokenizer, text):
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert min(ids) > 3


def test_names_and_words_of_values_are_single_tokens(tokenizer):
    values = (value for relation in bios.RELATIONS for value in relation.values)
    for text in (*bios.FIRST_NAMES, *bios.LAST_NAMES, *values):
        assert len(tokenizer.encode(f" {text}").ids) == len(text.split())


def test_the_people_of_the_recipe_are_in_no_split(recipe):
    known = set(recipe.all_people().names)
    for split in ("train", "dev", "test"):
        assert not known & set(bios.People(1, split, bios.PLAIN_SIDE).names)


def test_the_model_reads_two_documents(recipe, network, tokenizer):
    (point,) = recipe.curve(network, tokenizer, 50, [2])
    assert point["exact_match"] >= 0.9


def test_the_curve_is_strong_on_short_contexts_and_distracted_on_long_ones():
    curve = json.loads((FOLDER / "curve.json").read_text())
    assert set(curve) == {"name_sharing_rate", "points"}
    points = {point["num_documents"]: point for point in curve["points"]}
    assert list(points) == [1, 4, 8, 12, 20]
    for point in points.values():
        assert set(point) == {"num_documents", "num_questions", "exact_match", "wrong_in_distractor"}
        assert point["num_questions"] >= 200
        assert 0 <= point["wrong_in_distractor"] <= 1
    assert points[4]["exact_match"] >= 0.85
    assert 0.2 <= points[12]["exact_match"] <= 0.7
    assert points[20]["exact_match"] < points[12]["exact_match"] < points[8]["exact_match"]
    assert points[12]["wrong_in_distractor"] > 0.5


def test_the_log_shows_copying_learned_first():
    header, *lines = (FOLDER / "training_log.tsv").read_text().splitlines()
    assert header.split("\t")[:6] == ["phase", "step", "tokens", "loss", "copy_accuracy", "answer_accuracy"]
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert float([row for row in rows if row[0] == "1"][-1][4]) > 0.8
    assert float(rows[-1][5]) > 0.95
