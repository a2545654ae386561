"""Variants of focused training for which there is no setting: does one of them win on the dev split?

    dvc exp run -S eval.split=dev -S ++data.dev_questions=640 mask teach   # the data, once
    OMP_NUM_THREADS=1 python benchmarks/variants.py [--only NAME ...] [--seeds 1] [--steps 120]

Views, order of the examples, adapter, optimizer and evaluation are those of the pipeline; the loss of a step is written
here. Masked views are `skip`: the same loss as "masks are not attended to", and half the time. Every training's answers
are kept in models/.variants, so that a stopped run goes on. The table has, for each variant, the score at the most
documents, the differences from `vanilla` and from `focused`, paired by seed, the share of distraction errors, and the
points from a gold document in the first place to one in the last, all measured as `make ablations` measures its rows.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import polars as pl
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks import measuring
from pipeline.common import base_card, tables
from pipeline.evaluation import predict, schema
from pipeline.model import causal_lm, collator, loading, lora
from pipeline.report import ablation_table
from pipeline.runtime import config
from pipeline.runtime.settings import Settings
from pipeline.tools.ablations import tabulate
from pipeline.training import losses, objective, sampler
from pipeline.training.dataset import DISTILL_SPLITS, DistillationDataset, context_keys
from pipeline.views import masking

KEPT = Path(".variants")  # below models/
REFERENCES = ("vanilla", "focused")
RESAMPLES = 4000
MOST = 10  # chunks that a curriculum over top-k begins or ends with


class Example(NamedTuple):
    """A training question with its context."""

    ids: collator.Ints
    starts_C: collator.Ints
    ends_C: collator.Ints
    ranks_C: collator.Ints
    question_start: int
    prompt_end: int


Keep = Callable[[Example, float, np.random.Generator], NDArray[np.bool_]]
"""Chooses the chunks that a view shows, given the share of the training that is done."""
Negative = Callable[[Example, Example], collator.TokenRow]
"""Makes a hard negative of the first example's full view; the second example is its neighbour in the batch."""


def best(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Keep the top 4 chunks, as the paper does."""
    return masking.keep_top(example.ranks_C, 4)


def best_alone(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    return masking.keep_top(example.ranks_C, 1)


def best_and_random(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Keep the best chunk and three others, drawn anew at each step."""
    kept_C = best_alone(example, done, draw)
    kept_C[draw.permutation(np.flatnonzero(~kept_C))[:3]] = True
    return kept_C


def falling(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Keep ten chunks at the start of training, one at its end."""
    return masking.keep_top(example.ranks_C, round(MOST + done * (1 - MOST)))


def rising(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Keep one chunk at the start of training, ten at its end."""
    return masking.keep_top(example.ranks_C, round(1 + done * (MOST - 1)))


def whole(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    return np.ones(len(example.ranks_C), dtype=np.bool_)


def growing(example: Example, done: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Keep the best chunk and more and more others; all of them in the second half of training."""
    kept_C = best_alone(example, done, draw)
    num_others = round(min(1.0, 2 * done) * (len(kept_C) - 1))
    kept_C[draw.permutation(np.flatnonzero(~kept_C))[:num_others]] = True
    return kept_C


def without_best(example: Example, other: Example) -> collator.TokenRow:
    """Ask the same question over the same context, the best chunk masked."""
    return shown(example, ~masking.keep_top(example.ranks_C, 1), "skip")


def other_context(example: Example, other: Example) -> collator.TokenRow:
    """Ask the same question over the neighbour's context."""
    return alone(other.ids[: other.question_start], example.ids[example.question_start :], example)


def other_question(example: Example, other: Example) -> collator.TokenRow:
    """Ask the neighbour's question over the same context."""
    return alone(example.ids[: example.question_start], other.ids[other.question_start :], other)


class Variant(NamedTuple):
    """The ways in which a training differs from the paper's."""

    masked: Keep | None = best
    full: Keep = whole
    gaps: int = 0
    """At most so many positions are left out before each chunk of the full view; drawn anew at each step."""
    weight: float = 0.1
    """Weight of the contrastive loss."""
    temperature: float | None = None
    """Temperature of the contrastive loss; None: the one of params.yaml."""
    masked_weight: float = 1.0
    """Weight of the masked view's causal-LM loss."""
    negative: Negative | None = None
    layer: int | None = None
    """The layer whose output is compared, from 0; None: the last one, behind the final norm."""
    fixed: str = ""
    """The view whose representation gets no gradient: full | masked."""
    matched: float = 0.0
    """Weight of KL(answer from the masked view, held fixed; answer from the full view) at the labels."""
    distill: float = 0.0
    """Weight of method distill's loss on as many questions more."""


VARIANTS = {
    "vanilla": Variant(masked=None),
    "focused": Variant(),
    "top 1": Variant(best_alone),
    "best and random chunks": Variant(best_and_random),
    "top 10 to 1": Variant(falling),
    "top 1 to 10": Variant(rising),
    "growing contexts": Variant(full=growing),
    "growing contexts, vanilla": Variant(masked=None, full=growing),
    "negative: best chunk masked": Variant(negative=without_best, weight=0.3),
    "negative: other context": Variant(negative=other_context, weight=0.3),
    "negative: other question": Variant(negative=other_question, weight=0.3),
    "contrast at layer 1": Variant(layer=0),
    "contrast at layer 2": Variant(layer=1),
    "weight 1, temperature 0.02": Variant(weight=1.0, temperature=0.02),
    "weight 1, temperature 0.5": Variant(weight=1.0, temperature=0.5),
    "x' counts a third": Variant(masked_weight=1 / 3),
    "x' counts three times": Variant(masked_weight=3.0),
    "gaps between chunks": Variant(gaps=32),
    "gaps between chunks, vanilla": Variant(masked=None, gaps=32),
    "gradient through x alone": Variant(fixed="masked"),
    "gradient through x' alone": Variant(fixed="full"),
    "x' for the contrast alone": Variant(masked_weight=0.0, fixed="masked", weight=1.0),
    "answers matched": Variant(matched=1.0),
    "answers matched, growing contexts": Variant(matched=1.0, full=growing),
    "answers matched, no contrast": Variant(matched=1.0, weight=0.0),
    "distill": Variant(masked=None, distill=1.0),
    "distill and focused": Variant(best_alone, distill=1.0),
    "distill and answers matched": Variant(best_alone, distill=1.0, matched=1.0),
    "distill and growing contexts": Variant(masked=None, distill=1.0, full=growing),
}


def shown(example: Example, kept_C: NDArray[np.bool_], mode: masking.Mode) -> collator.TokenRow:
    view = masking.masked_view(
        example.ids, example.starts_C, example.ends_C, example.prompt_end, kept_C, mode, mask_id=-1
    )
    return collator.row_of_one(view.input_ids, view.position_ids, view.prompt_end)


def full_view(example: Example, variant: Variant, done: float, draw: np.random.Generator) -> collator.TokenRow:
    """Make the full view without the chunks it leaves out, then draw the gaps, which move everything behind them."""
    row = shown(example, variant.full(example, done, draw), "drop")
    if not variant.gaps:
        return row
    assert variant.full is whole, "gaps are drawn before chunks that are all there"
    gap_L = np.zeros(len(row), dtype=np.int32)
    gap_L[example.starts_C] = draw.integers(0, variant.gaps + 1, size=len(example.starts_C))
    places_L = row.position_ids + np.cumsum(gap_L, dtype=np.int32)
    return collator.row_of_one(row.input_ids, places_L, example.prompt_end)


def alone(context: collator.Ints, question: collator.Ints, asked: Example) -> collator.TokenRow:
    ids = np.concatenate([context, question])
    prompt_end = len(context) + asked.prompt_end - asked.question_start
    return collator.row_of_one(ids, np.arange(len(ids), dtype=np.int32), prompt_end)


class Read(NamedTuple):
    """Loss, representations and logits of some rows, in their order."""

    clm: Tensor
    """Nats per label token."""
    z_BD: Tensor
    logits: list[Tensor]
    """(N, V) of each row's labels."""


def read(network: Any, rows: Sequence[collator.TokenRow], layer: int | None, batch_tokens: int, pad_id: int) -> Read:
    places: list[int] = []
    z_of, logits_of, sums = [], [], []
    for group in collator.group_rows(rows, batch_tokens):
        view = collator.collate([rows[place] for place in group], pad_id)
        with output_of(network, layer) as outputs:
            hidden_BLD = causal_lm.hidden_states(network, view)
        logits_NV = causal_lm.logits_at_labels(network, hidden_BLD, view)
        sums.append(losses.causal_lm(logits_NV, view.labels_N, view.label_examples_N, len(group)).sum())
        z_of += objective.represent(outputs[0] if outputs else hidden_BLD, view, "last_prompt").unbind()
        logits_of += logits_NV.split(torch.bincount(view.label_examples_N, minlength=len(group)).tolist())
        places += group
    order = np.argsort(places)
    logits = [logits_of[place] for place in order]
    return Read(torch.stack(sums).sum() / sum(map(len, logits)), torch.stack([z_of[place] for place in order]), logits)


@contextmanager
def output_of(network: Any, layer: int | None) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    if layer is None:
        yield outputs
        return
    handle = causal_lm.unwrap(network).model.layers[layer].register_forward_hook(lambda _, __, out: outputs.append(out))
    try:
        yield outputs
    finally:
        handle.remove()


def contrast(variant: Variant, full: Read, masked: Read, negative: Read | None, temperature: float) -> Tensor:
    """Symmetric InfoNCE; each full view has its hard negative beside the other examples' masked views."""
    z_full, z_masked = (functional.normalize(found.z_BD, dim=-1) for found in (full, masked))
    z_full = z_full.detach() if variant.fixed == "full" else z_full
    z_masked = z_masked.detach() if variant.fixed == "masked" else z_masked
    sim_BB = z_full @ z_masked.T / temperature
    own_B = torch.arange(len(sim_BB))
    from_full = sim_BB
    if negative is not None:
        hard_B = (z_full * functional.normalize(negative.z_BD, dim=-1)).sum(dim=1) / temperature
        from_full = torch.cat([sim_BB, hard_B[:, None]], dim=1)
    return (functional.cross_entropy(from_full, own_B) + functional.cross_entropy(sim_BB.T, own_B)) / 2


def matching(full: Read, masked: Read) -> Tensor:
    """KL from the masked view's answer, held fixed, to the full view's; nats per label token."""
    logits_NV, fixed_NV = torch.cat(full.logits), torch.cat(masked.logits).detach()
    alone_N = torch.zeros(len(logits_NV), dtype=torch.long)
    return losses.divergence_of_logits(logits_NV, fixed_NV, alone_N, 1).sum() / len(logits_NV)


def training_examples() -> list[Example]:
    rows = tables.side_by_side((tables.FULL_VIEWS, None), (tables.SCORES, ["example_id", "ranks"]))
    return [
        Example(
            *(np.asarray(full[name], dtype=np.int32) for name in ("input_ids", "chunk_starts", "chunk_ends")),
            np.asarray(scored["ranks"], dtype=np.int32),
            full["question_start"],
            full["prompt_end"],
        )
        for full, scored in rows
        if full["split"] == "train"
    ]


def train(name: str, variant: Variant, seed: int, settings: Settings, examples: Sequence[Example]) -> Any:
    """Train an adapter with the pipeline's batches, learning rate and teacher."""
    options, card = settings.train, base_card.read_card()
    transformers.set_seed(seed)
    network = lora.add_adapter(
        loading.load_base(settings.model, card), **settings.lora.model_dump(), mask_id=card.mask_id
    ).train()
    attention, rest = lora.parameter_groups(network)
    optimizer = torch.optim.AdamW(
        [
            {"params": attention, "lr": options.learning_rate},
            {"params": rest, "lr": options.embedding_learning_rate},
        ],
        weight_decay=0.0,
    )
    rate = transformers.get_cosine_schedule_with_warmup(optimizer, options.warmup_steps, options.steps)
    batches = sampler.batch_indices(context_keys(tables.FULL_VIEWS), options.steps, options.batch_examples, seed)
    distill = None
    if variant.distill:
        places = [str(place) for place in range(len(context_keys(tables.FULL_VIEWS, DISTILL_SPLITS)))]
        order = sampler.batch_indices(places, options.steps, settings.distill.batch_questions, seed)
        distill = DistillationDataset(order, tables.FULL_VIEWS, tables.TEACHINGS)
        encoder = objective.Encoder(network, "last_prompt")
    for step, indices in enumerate(tqdm(batches, desc=f"{name}, seed {seed}", disable=None)):
        done, draw = step / options.steps, np.random.default_rng([seed, step])
        batch = [examples[index] for index in indices]
        full_rows = [full_view(example, variant, done, draw) for example in batch]
        full = read(network, full_rows, variant.layer, options.batch_tokens, card.pad_id)
        loss = full.clm
        if variant.masked is not None:
            masked_rows = [shown(example, variant.masked(example, done, draw), "skip") for example in batch]
            masked = read(network, masked_rows, variant.layer, options.batch_tokens, card.pad_id)
            negative = None
            if variant.negative is not None:
                pairs = zip(batch, batch[1:] + batch[:1], strict=True)
                negative_rows = [variant.negative(example, other) for example, other in pairs]
                negative = read(network, negative_rows, variant.layer, options.batch_tokens, card.pad_id)
            loss = loss + variant.masked_weight * masked.clm
            temperature = variant.temperature or settings.contrastive.temperature
            loss = loss + variant.weight * contrast(variant, full, masked, negative, temperature)
            if variant.matched:
                loss = loss + variant.matched * matching(full, masked)
        if distill is not None:
            micro_batches, num_labels = distill.micro_batches(step, options.batch_tokens, card.pad_id)
            divergences = [encoder(micro_batch.inputs).loss_E.sum() for micro_batch in micro_batches]
            loss = loss + variant.distill * torch.stack(divergences).sum() / num_labels
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.max_grad_norm)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
    return network


def identity(settings: Settings) -> str:
    """Digest of data and settings. It does not cover this file: remove models/.variants after an edit here."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for path in (tables.FULL_VIEWS.path, tables.SCORES.path, tables.TEACHINGS.path):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def answers(name: str, variant: Variant, seed: int, settings: Settings, examples: Sequence[Example]) -> pl.DataFrame:
    """Read the dev answers of a variant; where none are kept, train it and answer first."""
    method = (KEPT / f"{name.replace(' ', '_')}-{seed}-{identity(settings)}").as_posix()
    kept = schema.PREDICTIONS.at(base_card.MODELS / f"{method}.parquet")
    if not kept.path.is_file():
        card = base_card.read_card()
        loading.save_adapter(train(name, variant, seed, settings, examples), card, base_card.MODELS / method)
        rows = predict.predictions(method, settings.model, settings.eval, "dev", {}, name)
        tables.write(kept, rows or [])
    columns = [column for column, _ in schema.ABLATION_RUN.columns]
    return tables.frame(kept, columns).with_columns(seed=pl.lit(seed, pl.Int64))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = config.load()
    if "dev" not in tables.frame(tables.EXAMPLES, ["split"])["split"]:
        raise SystemExit("error: there are no dev questions to compare on; set data.dev_questions or data.dev_fraction")
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"steps": arguments.steps})})
    examples = training_examples()
    references: list[tabulate.AblationAnswers] = []
    found = {}
    for name in arguments.only:
        by_seed = [answers(name, VARIANTS[name], seed, settings, examples) for seed in arguments.seeds]
        mine = tabulate.AblationAnswers(name, name, "", name, "full", {}, pl.concat(by_seed), identity=(name,))
        references += [mine] * (name in REFERENCES)
        found[name] = measured(mine, references)
        print(cells(name, found[name]), flush=True)
    return {"rows": {name: {to: row.model_dump() for to, row in rows.items()} for name, rows in found.items()}}


def measured(
    mine: tabulate.AblationAnswers, references: Sequence[tabulate.AblationAnswers]
) -> dict[str, ablation_table.AblationRow]:
    """Measure a variant as `make ablations` measures a row, against each of the references that are trained."""
    others = [other for other in references if other.name != mine.name]
    return {
        reference: tabulate.tabulate(
            [mine, *others], reference=reference, claimed=[], seconds=0.0, resamples=RESAMPLES
        ).rows[0]
        for reference in REFERENCES
    }


def cells(name: str, found: Mapping[str, ablation_table.AblationRow]) -> str:
    """Write one line of the table."""
    row = found[REFERENCES[0]]
    texts = [name, ", ".join(map(str, row.seeds)), f"{100 * row.pooled.mean:.1f}"]
    for to in (found[reference].to_reference for reference in REFERENCES):
        texts.append("" if to is None else f"{points(to.difference, to.low, to.high)}, p {to.p_value:.3f}")
    texts.append(f"{100 * row.distraction_rate.mean:.1f}")
    texts.append("" if row.slope is None else points(row.slope.mean, row.slope.low, row.slope.high, 0))
    return f"| {' | '.join(texts)} |"


def points(value: float, low: float, high: float, digits: int = 1) -> str:
    shares = [f"{100 * share:+.{digits}f}" for share in (value, low, high)]
    return "{} [{}, {}]".format(*shares)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    print("| variant | seeds | score | to vanilla | to focused | distracted | first to last |")
    print("|---|---|--:|:--|:--|--:|--:|")
    found = measuring.setting(arguments) | measure(arguments)
    measuring.write(arguments.results, found)
    return found


if __name__ == "__main__":
    main()
