"""Compare the speed of our encoder with SentenceTransformer.encode on the same weights and texts, in the same run.

    python benchmarks/score.py FILE [--chunks 400] [--words 150] [--rounds 3]

FILE holds English documents, one JSON object with a `text` per line; chunking.split cuts them, and the chunks are drawn
evenly from all of them. Every way uses one thread and the weights and max_tokens of conf/retriever/minilm.yaml. Rounds
are interleaved; seconds are medians of CPU time; `times` compares with SentenceTransformer in the same number format,
`times fp32` with its default, round by round. Tokens are those that go through the network, padding included, for each
token of the chunks. Cosines and the best chunks of each question (the last words of every n-th chunk) are compared with
the default's; the run fails unless ours in fp32 have the default's embeddings.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import sentence_transformers
import torch
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from pipeline.retrieval import checkpoint, chunking, encoder
from pipeline.retrieval.sentence_encoder import SentenceEncoder
from pipeline.runtime import config
from pipeline.runtime.settings import EncoderRetriever, SentenceTransformerRetriever

ROOT = Path(__file__).resolve().parents[1]
OURS_FP32 = "ours, fp32"
PEERS = {
    torch.float32: "SentenceTransformer.encode (fp32)",
    torch.bfloat16: "SentenceTransformer.encode, bf16",
}
MIN_COSINE = 0.9999  # between ours in fp32 and SentenceTransformer's default
NUM_QUESTIONS = 50
QUESTION_WORDS = 12
TOP_K = 5
CPU = torch.device("cpu")

Floats = NDArray[np.float32]


class Way(NamedTuple):
    """One way to turn distinct texts into embedding_ND."""

    name: str
    peer: str
    """SentenceTransformer's way in the same number format."""
    word_embeddings: torch.nn.Module
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


def ours(name: str, own: encoder.TextEncoder, dtype: torch.dtype) -> Way:
    """Encode as stage `score` does with an empty cache, in a number format, whatever the CPU prefers."""
    own.dtype = dtype

    def encode(texts: Sequence[str]) -> Floats:
        parts = [(batch.indices, own.embed(batch)) for batch in own.batches(texts, "chunks")]
        found: Floats = np.concatenate([embedding_BD for _, embedding_BD in parts])
        return found[np.argsort([index for indices, _ in parts for index in indices])]

    network = getattr(own.network, "transformers_model", own.network)
    return Way(name, PEERS[dtype], network.get_input_embeddings(), encode)


def peer(folder: Path, settings: EncoderRetriever, dtype: torch.dtype) -> Way:
    """Encode with SentenceTransformer, which sorts the texts by length and makes batches of 32."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})
    model.max_seq_length = settings.max_tokens

    def encode(texts: Sequence[str]) -> Floats:
        embedding_ND = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return embedding_ND.float().numpy()

    return Way(PEERS[dtype], PEERS[dtype], model.transformers_model.get_input_embeddings(), encode)


def with_modules(folder: Path, settings: EncoderRetriever, saved: Path) -> SentenceTransformerRetriever:
    """Save the encoder with the modules.json that its folder lacks; return the settings of what was saved."""
    SentenceTransformer(str(folder), device="cpu", local_files_only=True).save(str(saved), create_model_card=False)
    changes = {"kind": "sentence_transformer", "source": str(saved), "sha256": None}
    return SentenceTransformerRetriever.model_validate(
        settings.model_dump(exclude={"pooling"}) | changes | {"query_prompt": "", "passage_prompt": ""}
    )


def unit(embedding_ND: Floats) -> Floats:
    return embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)


def best(way: Way, chunk_ND: Floats, questions: Sequence[str]) -> list[set[int]]:
    """Return the TOP_K chunks of each question; ties go to the earlier chunk."""
    scores = unit(way.encode(questions)) @ unit(chunk_ND).T
    return [set(row[:TOP_K].tolist()) for row in np.argsort(-scores, axis=1, kind="stable")]


def tokens_through(way: Way, texts: Sequence[str]) -> int:
    """Count the tokens that go through the network for the texts, padding included."""
    counted: list[int] = []
    hook = way.word_embeddings.register_forward_pre_hook(lambda _layer, given: counted.append(given[0].numel()))
    way.encode(texts)
    hook.remove()
    return sum(counted)


def measure(
    ways: Sequence[Way], texts: Sequence[str], questions: Sequence[str], rounds: int, num_tokens: int
) -> list[dict[str, Any]]:
    """Return a row for each way; `num_tokens` are those of the texts. The first way is the default."""
    through = {way.name: tokens_through(way, texts) for way in ways}  # also warms the kernels up
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
        times = {
            label: [theirs / own for theirs, own in zip(seconds[name], seconds[way.name], strict=True)]
            for label, name in (("ratio", way.peer), ("ratio_to_fp32", default))
        }
        shared = [len(one & other) for one, other in zip(best_of[way.name], best_of[default], strict=True)]
        rows.append(
            {
                "way": way.name,
                "seconds": median,
                "chunks_per_second": len(texts) / median,
                "ratio": statistics.median(times["ratio"]),
                "ratios": [min(times["ratio"]), max(times["ratio"])],
                "ratio_to_fp32": statistics.median(times["ratio_to_fp32"]),
                "tokens_per_token": through[way.name] / num_tokens,
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
    encoder.quiet()
    settings = config.load_retrievers(["minilm"], ROOT)["minilm"]
    assert isinstance(settings, EncoderRetriever)
    folder = checkpoint.find(settings).folder
    texts = chunks(arguments.file, arguments.chunks, arguments.words)
    questions = [" ".join(text.split()[-QUESTION_WORDS:]) for text in texts[:: max(1, len(texts) // NUM_QUESTIONS)]]
    native = encoder.number_format(CPU)
    formats = {torch.float32: "fp32", **({torch.bfloat16: "bf16"} if native == torch.bfloat16 else {})}
    ways = [peer(folder, settings, dtype) for dtype in formats]
    counted = encoder.TextEncoder(settings, CPU).batches(texts, "chunks")
    num_tokens = sum(min(length, settings.max_tokens) for batch in counted for length in batch.lengths)
    with tempfile.TemporaryDirectory() as saved:
        as_library = with_modules(folder, settings, Path(saved))
        for dtype, short in formats.items():
            ways.append(ours(f"ours, {short}", encoder.TextEncoder(settings, CPU), dtype))
            ways.append(ours(f"ours, kind sentence_transformer, {short}", SentenceEncoder(as_library, CPU), dtype))
        rows = measure(ways, texts, questions, arguments.rounds, num_tokens)
    cosine = next(row["min_cosine"] for row in rows if row["way"] == OURS_FP32)
    assert cosine >= MIN_COSINE, f"{OURS_FP32}: a cosine of {cosine} with SentenceTransformer's embedding"
    able: dict[str, Any] = dict(torch.cpu.get_capabilities())
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}, {torch.get_num_threads()} thread, CPU with "
        f"{' and '.join(name for name in ('avx512_bf16', 'amx_bf16') if able.get(name)) or 'no bf16'}; {len(texts):,} "
        f"chunks of {arguments.words} words at most, {len(questions)} questions; {arguments.rounds} rounds\n"
    )
    print(
        f"| way | CPU seconds | chunks/s | times (lowest to highest) | times fp32 | tokens | lowest cosine | "
        f"same top {TOP_K} |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["ratios"]
        print(
            f"| {row['way']} | {row['seconds']:.1f} | {row['chunks_per_second']:.1f} | {row['ratio']:.2f} "
            f"({low:.2f} to {high:.2f}) | {row['ratio_to_fp32']:.2f} | {row['tokens_per_token']:.2f} | "
            f"{row['min_cosine']:.5f} | {100 * row['top_k_overlap']:.1f} % |"
        )
    if arguments.results:
        arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
