"""Compare the speed of our encoder with SentenceTransformer.encode on the same weights and texts, in the same run.

    python benchmarks/score.py FILE [--chunks 400] [--words 150] [--rounds 3]

FILE holds English documents, one JSON object with a `text` per line; chunking.split cuts them, and the chunks are drawn
evenly from all of them. Every way uses one thread and the weights and max_tokens of conf/retriever/minilm.yaml. Rounds
are interleaved; seconds are medians of CPU time; `times` compares with SentenceTransformer's default, round by round.
Encodes are rows that go through the network, with those that only fill a batch. Cosines and the best chunks of each
question (the last words of every n-th chunk) are compared with the default's; the run fails unless ours in fp32 has
the default's embeddings.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from pipeline.retrieval import chunking, encoder
from pipeline.runtime import config
from pipeline.runtime.settings import EncoderRetriever

ROOT = Path(__file__).resolve().parents[1]
OURS_FP32 = "ours, fp32"
MIN_COSINE = 0.9999  # between ours in fp32 and SentenceTransformer's default
NUM_QUESTIONS = 50
QUESTION_WORDS = 12
TOP_K = 5
CPU = torch.device("cpu")

Floats = NDArray[np.float32]


class Way(NamedTuple):
    """One way to turn distinct texts into embedding_ND."""

    name: str
    network: Any
    encode: Callable[[Sequence[str]], Floats]


def chunks(path: Path, num: int, words: int) -> list[str]:
    """Return distinct chunks of at most `words` words, evenly from the whole file."""
    documents = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    found = list(
        dict.fromkeys(text[start:end].strip() for text in documents for start, end in chunking.split(text, words))
    )
    if len(found) < num:
        sys.exit(f"{path}: {len(found):,} chunks of {words} words, --chunks is {num:,}; lower it")
    return [found[place * len(found) // num] for place in range(num)]


def ours(name: str, settings: EncoderRetriever, number_format: torch.dtype) -> Way:
    """Encode as stage `score` does with an empty cache."""
    own = load(settings, number_format)

    def encode(texts: Sequence[str]) -> Floats:
        found = np.empty((len(texts), own.network.config.hidden_size), dtype=np.float32)
        for batch in own.batches(texts):
            found[batch.indices] = own.embed(batch)
        return found

    return Way(name, own.network, encode)


def naive(name: str, settings: EncoderRetriever) -> Way:
    """Encode batches of 32 in the order of the texts, each padded to its longest."""
    own = load(settings, torch.float32)

    def encode(texts: Sequence[str]) -> Floats:
        found = []
        for start in range(0, len(texts), 32):
            rows = [encoder.truncate(ids, settings.max_tokens) for ids in own.tokenize(texts[start : start + 32])]
            lengths = [len(row) for row in rows]
            batch = encoder.EncoderBatch(list(range(len(rows))), rows, lengths, max(lengths), len(rows))
            found.append(own.embed(batch))
        return np.concatenate(found)

    return Way(name, own.network, encode)


def load(settings: EncoderRetriever, number_format: torch.dtype) -> encoder.TextEncoder:
    """Load the encoder on the CPU in a number format, whatever the CPU prefers."""
    own = encoder.TextEncoder(settings, CPU)
    own.dtype = number_format
    return own


def peer(name: str, folder: Path, settings: EncoderRetriever, **model_kwargs: torch.dtype) -> Way:
    """Encode with SentenceTransformer, which sorts the texts by length and makes batches of 32."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        sys.exit(f"SentenceTransformer cannot be imported ({error}); `pip install --no-deps sentence-transformers`")
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=model_kwargs)
    model.max_seq_length = settings.max_tokens

    def encode(texts: Sequence[str]) -> Floats:
        embedding_ND = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return embedding_ND.float().numpy()

    return Way(name, model[0].auto_model, encode)


def unit(embedding_ND: Floats) -> Floats:
    return embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)


def best(way: Way, chunk_ND: Floats, questions: Sequence[str]) -> list[set[int]]:
    """Return the TOP_K chunks of each question; ties go to the earlier chunk."""
    scores = unit(way.encode(questions)) @ unit(chunk_ND).T
    return [set(row[:TOP_K].tolist()) for row in np.argsort(-scores, axis=1, kind="stable")]


def num_encodes(way: Way, texts: Sequence[str]) -> int:
    """Count the rows that go through the network for the texts."""
    counted: list[int] = []
    # On the first layer, because SentenceTransformer calls the network's `forward`, which skips hooks of the network.
    first = way.network.embeddings.word_embeddings
    hook = first.register_forward_pre_hook(lambda _layer, given: counted.append(len(given[0])))
    way.encode(texts)
    hook.remove()
    return sum(counted)


def measure(ways: Sequence[Way], texts: Sequence[str], questions: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way; all are compared with the first."""
    encodes = {way.name: num_encodes(way, texts) for way in ways}  # also warms the kernels up
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    found: dict[str, Floats] = {}
    for _ in range(rounds):
        for way in ways:
            started = time.process_time()
            found[way.name] = way.encode(texts)
            seconds[way.name].append(time.process_time() - started)
    best_of = {way.name: best(way, found[way.name], questions) for way in ways}
    default = ways[0].name
    rows = []
    for way in ways:
        median = statistics.median(seconds[way.name])
        ratios = [theirs / own for theirs, own in zip(seconds[default], seconds[way.name], strict=True)]
        shared = [len(one & other) for one, other in zip(best_of[way.name], best_of[default], strict=True)]
        rows.append(
            {
                "way": way.name,
                "seconds": median,
                "chunks_per_second": len(texts) / median,
                "ratio": statistics.median(ratios),
                "ratios": [min(ratios), max(ratios)],
                "encodes_per_unique_chunk": encodes[way.name] / len(texts),
                "min_cosine": float((unit(found[way.name]) * unit(found[default])).sum(axis=1).min()),
                "top_k_overlap": statistics.fmean(shared) / TOP_K,
            }
        )
    return rows


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="JSON lines with a text each")
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--words", type=int, default=150, help="of a chunk at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    settings = config.load_retrievers(["minilm"], ROOT)["minilm"]
    assert isinstance(settings, EncoderRetriever)
    folder = encoder.find(settings).folder
    texts = chunks(arguments.file, arguments.chunks, arguments.words)
    questions = [" ".join(text.split()[-QUESTION_WORDS:]) for text in texts[:: max(1, len(texts) // NUM_QUESTIONS)]]
    native = encoder.number_format(CPU)
    ways = [
        peer("SentenceTransformer.encode (fp32)", folder, settings),
        peer("SentenceTransformer.encode, bf16", folder, settings, dtype=torch.bfloat16),
        naive("torch fp32, as the texts come", settings),
        ours(OURS_FP32, settings, torch.float32),
    ]
    if native == torch.bfloat16:
        ways.append(ours("ours, bf16 (chosen on this CPU)", settings, native))
    rows = measure(ways, texts, questions, arguments.rounds)
    cosine = next(row["min_cosine"] for row in rows if row["way"] == OURS_FP32)
    assert cosine >= MIN_COSINE, f"{OURS_FP32}: a cosine of {cosine} with SentenceTransformer's embedding"
    able: dict[str, Any] = dict(torch.cpu.get_capabilities())
    import sentence_transformers

    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}, {torch.get_num_threads()} thread, CPU with "
        f"{' and '.join(name for name in ('avx512_bf16', 'amx_bf16') if able.get(name)) or 'no bf16'}; {len(texts):,} "
        f"chunks of {arguments.words} words at most, {len(questions)} questions; {arguments.rounds} rounds\n"
    )
    print(
        f"| way | CPU seconds | chunks/s | times (lowest to highest) | encodes per unique chunk | lowest cosine | "
        f"same top {TOP_K} |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["ratios"]
        print(
            f"| {row['way']} | {row['seconds']:.1f} | {row['chunks_per_second']:.1f} | {row['ratio']:.2f} "
            f"({low:.2f} to {high:.2f}) | {row['encodes_per_unique_chunk']:.2f} | {row['min_cosine']:.5f} | "
            f"{100 * row['top_k_overlap']:.1f} % |"
        )
    if arguments.results:
        arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
