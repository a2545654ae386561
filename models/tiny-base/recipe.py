"""`make base-model`: the small base model of the embedded default, from nothing, in under an hour on two cores.

Phase 1 teaches copying: random segments of four tokens, then the same segments in another order; what follows a
segment's first token is predictable, and a model that predicts it can look up what stood behind the same words
before. Without this phase the biographies alone teach a model of this size to guess values for a very long time.
Phase 2 mixes one batch of copying in four with one to four biographies, laid out exactly as the pipeline lays out its
examples, and up to eight questions about them.

The people are a share of the full names that no split of the benchmark ever has; the values are the benchmark's.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file: the package is not beside it

from pipeline.common import files
from pipeline.common.text import has_answer
from pipeline.data.benchmarks import bios
from pipeline.model import loading
from pipeline.views import prompts, tasks

ROOT = Path(__file__).resolve().parents[2]

# B sequences, L tokens, D hidden, P positions that bear a loss, V vocabulary

INSTRUCTION = prompts.instruction_segment(tasks.of("bios").instruction)
SEED = 7
SPECIALS = ["<s>", "</s>", "<pad>", "<mask>"]
BOS, EOS, PAD, MASK = range(4)
HIDDEN, LAYERS, HEADS, INNER = 128, 3, 4, 256
MAX_TOKENS = 4096
BATCH_TOKENS = 2048
LEARNING_RATE, FINAL_LEARNING_RATE, WARMUP_STEPS = 3e-3, 3e-4, 50
SEGMENT = 4
MIN_SEGMENTS, MAX_SEGMENTS = 4, 48  # phase 1 starts with few segments: among many, a guess is too seldom right
RARE_TOKEN_RATE = 1.0
NAME, PHRASE = 2, 2  # tokens, as in the biographies
MAX_SIDE = 4  # names, and phrases, of one sequence
COPY_GOAL, COPY_MAX_STEPS = 0.9, 2000
BIOGRAPHY_STEPS = 1500
COPY_EVERY = 4
MAX_DOCUMENTS, MAX_QUESTIONS = 4, 8
NAME_SHARING_RATE = 0.25
LM_WEIGHT, LM_SHARE = 0.3, 0.25  # the language-model loss is estimated on a quarter of the tokens
LOG_EVERY, SAVE_EVERY = 50, 250
CURVE_DOCUMENTS = [1, 4, 8, 12, 20]
CURVE_QUESTIONS = 256


class Batch(NamedTuple):
    """Right-padded token ids (B, L); flat positions in B * L whose next token is an answer's, and text's."""

    ids_BL: torch.Tensor
    answer_P: torch.Tensor
    text_P: torch.Tensor


def all_people() -> bios.People:
    return bios.People(SEED, "pretraining", bios.PLAIN_SIDE)


def asked(question: str, answer_lead: str) -> str:
    """The end of the prompt; generation goes on right behind it."""
    return f"{prompts.question_segment(question)}{prompts.PLAIN_TURN}{answer_lead}".rstrip(" ")


def segments(biography: bios.Biography) -> Iterator[str]:
    """Every text about one person, as the pipeline cuts it."""
    document = biography.document
    yield prompts.chunk_segment(document.title, document.text, opens_document=True, closes_document=True)
    for fact in biography.facts:
        yield asked(*bios.ask(document.title, fact))
        yield f" {fact.value}"


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE: any text has ids, and each word of the biographies is one token."""
    people = all_people()
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for person in range(len(people)) for text in segments(people.biography(person)))
    tokenizer.train_from_iterator((text for part in ([INSTRUCTION], texts) for text in part), trainer)
    return tokenizer


def make_network(vocab_size: int) -> MistralForCausalLM:
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        max_position_embeddings=MAX_TOKENS,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    network = MistralForCausalLM(config)
    with torch.no_grad():
        # The head starts as a copy of the embedding (they are not tied): attending to a token then predicts it, for
        # all tokens at once, and copying is learned several times faster.
        network.model.embed_tokens.weight.normal_(0.0, 0.05)
        network.lm_head.weight.copy_(network.model.embed_tokens.weight)
    return network


class CopyBatches:
    """Two exercises in copying random tokens; the rate of rare ones says how many the biographies do not use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        people = all_people()
        texts = [text for person in range(len(people)) for text in segments(people.biography(person))]
        used = {token for encoding in tokenizer.encode_batch(texts) for token in encoding.ids}
        self._used = np.array(sorted(used))
        self._vocab_size = tokenizer.get_vocab_size()

    def segments(self, random: np.random.Generator, max_segments: int = MAX_SEGMENTS) -> Batch:
        """Random segments, twice, in two orders: a segment's first token tells the others of its second showing."""
        num_segments = int(random.integers(max(2, max_segments // 4), max_segments + 1))
        num_sequences = max(1, BATCH_TOKENS // (2 * num_segments * SEGMENT))
        first = self._tokens(random, num_sequences, num_segments, SEGMENT)
        return _shown_twice(random, first, np.arange(SEGMENT) != 0)

    def facts(self, random: np.random.Generator, max_side: int = MAX_SIDE) -> Batch:
        """Segments of name, phrase and value, where names and phrases recur: only both together tell the value."""
        num_names, num_phrases = (int(random.integers(2, max_side + 1)) for _ in range(2))
        length = NAME + PHRASE + 1
        num_sequences = max(1, BATCH_TOKENS // (2 * num_names * num_phrases * length))
        names = self._tokens(random, num_sequences, num_names, NAME)
        shares = random.random((num_sequences, num_names, 2)) < NAME_SHARING_RATE / 2
        shares[:, :, 0] &= ~shares[:, :, 1]
        names = np.where(shares, names[:, :1], names)
        phrases = self._tokens(random, num_sequences, num_phrases, PHRASE)
        first = np.empty((num_sequences, num_names, num_phrases, length), dtype=np.int64)
        first[..., :NAME] = names[:, :, None]
        first[..., NAME:-1] = phrases[:, None]
        first[..., -1] = self._tokens(random, num_sequences, num_names, num_phrases)
        first = first.reshape(num_sequences, num_names * num_phrases, length)
        return _shown_twice(random, first, np.arange(length) == length - 1)

    def _tokens(self, random: np.random.Generator, *shape: int) -> np.ndarray:
        rare = random.integers(len(SPECIALS), self._vocab_size, size=shape)
        return np.where(random.random(shape) < RARE_TOKEN_RATE, rare, random.choice(self._used, size=shape))


def _shown_twice(random: np.random.Generator, segments: np.ndarray, predicted: np.ndarray) -> Batch:
    """Each sequence's segments in one order, then in another; `predicted` tokens of the second showing bear a loss."""
    num_sequences, num_segments, length = segments.shape
    first, second = (np.stack([random.permutation(sequence) for sequence in segments]) for _ in range(2))
    ids_BL = np.concatenate([first, second], axis=1).reshape(num_sequences, -1)
    targets_BL = np.zeros(ids_BL.shape, dtype=bool)
    targets_BL[:, num_segments * length :] = np.tile(predicted, num_segments)
    places = np.flatnonzero(targets_BL) - 1  # the token before bears the loss of its successor
    return Batch(torch.from_numpy(ids_BL), torch.from_numpy(places), torch.empty(0, dtype=torch.long))


class BiographyBatches:
    """Contexts of biographies, made anew without end: the same people with other lives."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        self._people = all_people()
        self._random = Random(SEED)

    def batch(self, random: np.random.Generator) -> Batch:
        num_documents = int(random.integers(1, MAX_DOCUMENTS + 1))
        sequences = []
        while not sequences or len(sequences) * max(len(ids) for ids, _ in sequences) < BATCH_TOKENS:
            sequences.append(self._sequence(num_documents))
        length = max(len(ids) for ids, _ in sequences)
        ids_BL = np.full((len(sequences), length), PAD)
        is_answer_BL = np.zeros((len(sequences), length), dtype=bool)
        is_text_BL = np.zeros((len(sequences), length), dtype=bool)
        for row, (ids, is_answer) in enumerate(sequences):
            ids_BL[row, : len(ids)] = ids
            # A position bears the loss of the token behind it.
            is_answer_BL[row, : len(ids) - 1] = is_answer[1:]
            is_text_BL[row, : len(ids) - 1] = np.logical_not(is_answer[1:])
        is_text_BL &= random.random(is_text_BL.shape) < LM_SHARE
        return Batch(
            torch.from_numpy(ids_BL),
            torch.from_numpy(np.flatnonzero(is_answer_BL)),
            torch.from_numpy(np.flatnonzero(is_text_BL)),
        )

    def _sequence(self, num_documents: int) -> tuple[list[int], list[bool]]:
        """Token ids, and which of them are an answer's (its EOS included)."""
        random = self._random
        person = random.randrange(len(self._people))
        context = [person, *self._people.distractors(person, num_documents - 1, NAME_SHARING_RATE, random)]
        lives = [
            bios.biography("", self._people.names[other], random) for other in random.sample(context, num_documents)
        ]
        ids = [BOS, *self._encode(INSTRUCTION)]
        for life in lives:
            ids += self._encode(next(segments(life)))
        is_answer = [False] * len(ids)
        facts = [(life.document.title, fact) for life in lives for fact in life.facts]
        for name, fact in random.sample(facts, min(len(facts), MAX_QUESTIONS)):
            question_ids = self._encode(asked(*bios.ask(name, fact)))
            answer_ids = [*self._encode(f" {fact.value}"), EOS]
            ids += question_ids + answer_ids
            is_answer += [False] * len(question_ids) + [True] * len(answer_ids)
        return ids, is_answer


def losses(network: MistralForCausalLM, batch: Batch) -> tuple[torch.Tensor, float]:
    """Loss, and the share of answer tokens that are predicted."""
    hidden_PD = network.model(input_ids=batch.ids_BL).last_hidden_state.flatten(0, 1)
    next_P = batch.ids_BL.flatten().roll(-1)
    logits_PV = network.lm_head(hidden_PD[batch.answer_P])
    loss = cross_entropy(logits_PV, next_P[batch.answer_P])
    accuracy = (logits_PV.argmax(-1) == next_P[batch.answer_P]).double().mean().item()
    if len(batch.text_P):
        loss = loss + LM_WEIGHT * cross_entropy(network.lm_head(hidden_PD[batch.text_P]), next_P[batch.text_P])
    return loss, accuracy


class Log:
    """Means over LOG_EVERY steps, one line each, to the log and to the progress bar."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = ["phase\tstep\ttokens\tloss\tcopy_accuracy\tanswer_accuracy\tseconds"]
        self._start = time.monotonic()
        self._tokens = 0
        self._recent: list[tuple[float, str, float]] = []

    def add(self, phase: int, step: int, bar: tqdm, kind: str, batch: Batch, loss: float, accuracy: float) -> None:
        self._tokens += batch.ids_BL.numel()
        self._recent.append((loss, kind, accuracy))
        if step % LOG_EVERY == 0:
            loss = float(np.mean([loss for loss, _, _ in self._recent]))
            copy, answer = self.mean("copy"), self.mean("answer")
            self._lines.append(
                f"{phase}\t{step}\t{self._tokens}\t{loss:.4f}\t{copy:.4f}\t{answer:.4f}\t"
                f"{time.monotonic() - self._start:.0f}"
            )
            files.write_text(self._path, "\n".join(self._lines) + "\n")
            bar.set_postfix(loss=f"{loss:.3f}", copy=f"{copy:.2f}", answer=f"{answer:.2f}", tokens=f"{self._tokens:,}")
            self._recent = []

    def mean(self, kind: str) -> float:
        found = [accuracy for _, of, accuracy in self._recent if of == kind]
        return float(np.mean(found)) if found else float("nan")


def train(network: MistralForCausalLM, tokenizer: Tokenizer, folder: Path, biography_steps: int) -> None:
    random = np.random.default_rng(SEED)
    log = Log(folder / "training_log.tsv")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    network.train()

    def step(batch: Batch, learning_rate: float) -> tuple[float, float]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss, accuracy = losses(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), accuracy

    copies = CopyBatches(tokenizer)
    biographies = BiographyBatches(tokenizer)

    def copy(phase: int, exercise: Callable[..., Batch], size: int, max_size: int) -> None:
        """Practise with growing size until the goal is reached with the largest."""
        recent: list[float] = []
        with tqdm(range(1, COPY_MAX_STEPS + 1), desc=exercise.__name__, mininterval=5, disable=None) as bar:
            for number in bar:
                batch = exercise(random, size)
                warmup = min(1.0, number / WARMUP_STEPS) if phase == 1 else 1.0
                loss, accuracy = step(batch, LEARNING_RATE * warmup)
                log.add(phase, number, bar, "copy", batch, loss, accuracy)
                recent = [*recent[-19:], accuracy]
                if len(recent) == 20 and np.mean(recent) >= COPY_GOAL:
                    if size == max_size:
                        return
                    size, recent = min(2 * size, max_size), []

    copy(1, copies.segments, MIN_SEGMENTS, MAX_SEGMENTS)
    save(network, tokenizer, folder)
    copy(2, copies.facts, 2, MAX_SIDE)
    save(network, tokenizer, folder)
    with tqdm(range(1, biography_steps + 1), desc="biographies", mininterval=5, disable=None) as bar:
        for number in bar:
            cosine = 0.5 * (1 + np.cos(np.pi * number / biography_steps))
            learning_rate = FINAL_LEARNING_RATE + (LEARNING_RATE - FINAL_LEARNING_RATE) * cosine
            kind = "copy" if number % COPY_EVERY == 0 else "answer"
            if kind == "answer":
                batch = biographies.batch(random)
            else:
                batch = copies.facts(random) if number % (2 * COPY_EVERY) == 0 else copies.segments(random)
            loss, accuracy = step(batch, learning_rate)
            log.add(3, number, bar, kind, batch, loss, accuracy)
            if number % SAVE_EVERY == 0:
                save(network, tokenizer, folder)


@torch.no_grad()
def generate(network: MistralForCausalLM, prompt_ids: list[int], max_new_tokens: int = 8) -> list[int]:
    """Greedy continuation up to EOS, without it."""
    output = network(input_ids=torch.tensor([prompt_ids]), use_cache=True, logits_to_keep=1)
    generated: list[int] = []
    for _ in range(max_new_tokens):
        token = int(output.logits[0, -1].argmax())
        if token == EOS:
            break
        generated.append(token)
        output = network(
            input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1
        )
    return generated


def curve(
    network: MistralForCausalLM, tokenizer: Tokenizer, num_questions: int, sizes: list[int]
) -> list[dict[str, float]]:
    """Exact match on questions of the dev split, by documents in the context; whose value the wrong answers are."""
    network.eval()
    wanted = bios.SplitQuestions("dev", num_questions, sizes, [NAME_SHARING_RATE])
    documents, examples = bios.generate(SEED, [wanted])
    by_id = {document.document_id: document for document in documents}

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    counts = {size: {"correct": 0, "wrong_in_distractor": 0} for size in sizes}
    for example in tqdm(examples, desc="curve", total=num_questions * len(sizes), mininterval=5, disable=None):
        ids = [BOS, *encode(INSTRUCTION)]
        for document_id in example.document_ids:
            document = by_id[document_id]
            ids += encode(
                prompts.chunk_segment(document.title, document.text, opens_document=True, closes_document=True)
            )
        ids += encode(asked(example.question, example.answer_lead))
        answer = tokenizer.decode(generate(network, ids)).strip()
        count = counts[len(example.document_ids)]
        if answer == example.answers[0]:
            count["correct"] += 1
        else:
            count["wrong_in_distractor"] += any(
                has_answer(by_id[document_id].text, answer)
                for document_id in example.document_ids
                if document_id not in example.gold_document_ids
            )
    return [
        {
            "num_documents": size,
            "num_questions": num_questions,
            "exact_match": count["correct"] / num_questions,
            "wrong_in_distractor": count["wrong_in_distractor"] / max(1, num_questions - count["correct"]),
        }
        for size, count in counts.items()
    ]


def save(network: MistralForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, config and tokenizer as transformers reads them, each file whole."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".save.") as temporary:
        network.save_pretrained(temporary)
        wrap(tokenizer).save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            path.replace(folder / path.name)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model goes")
    parser.add_argument("--steps", type=int, default=BIOGRAPHY_STEPS, help="steps of phase 2")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    network = make_network(tokenizer.get_vocab_size())
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{num_parameters:,} parameters, {tokenizer.get_vocab_size():,} tokens, {torch.get_num_threads()} threads")
    save(network, tokenizer, arguments.folder)
    train(network, tokenizer, arguments.folder, arguments.steps)
    save(network, tokenizer, arguments.folder)
    points = curve(network, tokenizer, CURVE_QUESTIONS, CURVE_DOCUMENTS)
    files.write_json(arguments.folder / "curve.json", {"name_sharing_rate": NAME_SHARING_RATE, "points": points})
    for point in points:
        print(json.dumps(point))
    print(f"sha256 for conf/model/tiny.yaml: {loading.digest(arguments.folder)}")


if __name__ == "__main__":
    main()
