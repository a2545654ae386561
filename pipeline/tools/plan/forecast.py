"""What each heavy stage will read, compute, hold and take: the arithmetic of cost and memory over a workload.

Time is FLOPs over a stated share of the measured speed of a matrix product, and traffic (norms, activations, softmax,
copies) over the measured speed of memory. A token that is generated reads all weights once, however few tokens share
the pass, and every layer costs a call.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.common.methods import Trained
from pipeline.tools.plan import cost, memory
from pipeline.tools.plan.memory import Pack
from pipeline.tools.plan.shapes import Shape
from pipeline.tools.plan.workload import Rows, Workload
from pipeline.views.masking import Mode

GEMM_SHARE = 0.5
"""Of the measured speed of a matrix product that a whole model's products reach."""
TRAFFIC = 6
"""Times that a byte which autograd keeps of a layer is read or written, in forward and backward."""
LAYER_CALL_SECONDS = 4e-4
"""Of one layer's Python and kernel launches, in a pass that has little to compute."""
PASS_TOKENS = 4096
"""Of questions that hang on a shared context, in one pass."""

Negatives = Literal["graph", "cached"]


class Hardware(NamedTuple):
    """What the plan is made for."""

    name: str
    flops: float
    """FLOP/s of a large matrix product in the model's number format."""
    bandwidth: float
    """Byte/s of memory."""
    memory: float
    """Bytes there are."""
    overhead: float
    """Bytes that Python and its libraries take before anything is loaded."""
    hoard: float = 1.0
    """Bytes held to bytes in use, of what a step makes in blocks below memory.HOARDED_BYTES."""


class Estimate(NamedTuple):
    """One stage."""

    name: str
    tokens: float = 0.0
    flops: float = 0.0
    peak: float = 0.0
    """Bytes; 0: less than a GiB, not computed."""
    seconds: float = 0.0
    """0: seconds, not computed."""
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained."""

    method: Trained
    steps: int
    batch_examples: int
    batch_tokens: int | None
    """Padded tokens of one forward; None: the whole batch."""
    negatives: Negatives
    questions_per_document: int
    """At most so many questions of one document share a row of the full view."""
    checkpointing: bool
    rank: int
    embedding: bool
    norms: bool
    mode: Mode
    contrastive: bool
    """The step compares the views, so that all of them belong to one loss."""
    reads_masked: bool
    taught: int = 0
    """Questions of each step that are learnt from a teacher, beside the batch; their views are full ones."""


def train(recipe: Recipe, shape: Shape, work: Workload, hardware: Hardware) -> Estimate:
    """The training of one adapter."""
    cached = recipe.contrastive and recipe.negatives == "cached"
    tokens, flops, kept = 0.0, 0.0, 0.0
    for rows, row_tokens, labels, padded in _views(recipe, work, longest=False):
        tokens += rows * row_tokens
        flops += rows * cost.training_flops(
            shape,
            round(row_tokens),
            labels=round(labels),
            recompute="early_stop" if recipe.checkpointing else "none",
            rank=recipe.rank,
            embedding=recipe.embedding,
            padded=padded,
            cached=cached,
        )
        mask = cost.has_mask(shape, round(row_tokens), padded=padded)
        kept += rows * row_tokens * shape.layers * memory.layer_bytes(shape, round(row_tokens), masked=mask)
    passes = 1 + (recipe.checkpointing + cached) / 3
    seconds = flops / (GEMM_SHARE * hardware.flops) + passes * TRAFFIC * kept / hardware.bandwidth
    note = f"negatives {recipe.negatives}" if recipe.contrastive else ""
    return Estimate(
        f"train@{recipe.method}",
        recipe.steps * tokens,
        recipe.steps * flops,
        train_peak(recipe, shape, work, hardware),
        recipe.steps * seconds,
        note,
    )


def train_peak(recipe: Recipe, shape: Shape, work: Workload, hardware: Hardware) -> float:
    """Bytes of the process in the largest step: every row as long as the longest."""
    batches = []
    for rows, tokens, labels, padded in _views(recipe, work, longest=True):
        together = max(1, min(rows, (recipe.batch_tokens or rows * round(tokens)) // round(tokens)))
        for start in range(0, rows, together):
            num = min(together, rows - start)
            batches.append(Pack(num, round(tokens), round(num * labels), padded))
    num_trainable = shape.trainable(recipe.rank, embedding=recipe.embedding, norms=recipe.norms)
    return memory.process_peak_bytes(
        shape,
        batches,
        retained=recipe.contrastive and recipe.negatives == "graph",
        checkpointing=recipe.checkpointing,
        num_trainable=num_trainable,
        rank=recipe.rank,
        overhead=hardware.overhead,
        hoard=hardware.hoard,
    )


def _views(recipe: Recipe, work: Workload, *, longest: bool) -> list[tuple[int, float, float, bool]]:
    """Of one step, for each view: rows, tokens of a row with its padding, labels of a row, whether a mask is given."""
    rows, batch = work.train, recipe.batch_examples
    tokens = float(max(rows.longest, 1))
    alone = recipe.batch_tokens is not None and recipe.batch_tokens < 2 * rows.mean_tokens
    padded = batch > 1 and not alone
    if not longest:
        # A batch is as long as its longest row, which lies somewhere between the mean and the longest of all.
        tokens = max((rows.mean_tokens + rows.longest) / 2 if padded else rows.mean_tokens, 1.0)
    shared = min(float(recipe.questions_per_document), rows.num / max(rows.num_contexts, 1))
    shared = max(1.0, min(shared, batch))
    added = (shared - 1) * (rows.question_tokens + rows.label_tokens)
    found = [(max(1, round(batch / shared)), tokens + added, shared * rows.label_tokens, padded or shared > 1)]
    if recipe.method == "focused" and recipe.reads_masked:
        share = 1.0 if recipe.mode == "token" else work.masked_share
        found.append((batch, max(tokens * share, 1.0), rows.label_tokens, padded))
    if recipe.taught:
        found.append((recipe.taught, tokens, rows.label_tokens, padded))
    return found


def score(
    name: str, shape: Shape, num_texts: int, text_tokens: float, batch_tokens: int, hardware: Hardware
) -> Estimate:
    """Texts through an encoder, none of them in the cache."""
    padded = max(1, min(round(text_tokens) + 8, 512))  # to the next multiple of 16
    flops = num_texts * cost.encoder_flops(shape, padded)
    rows = max(1, batch_tokens // padded)
    peak = memory.read_peak_bytes(shape, Pack(rows, padded, padded=True), 0)
    kept = num_texts * padded * shape.layers * memory.layer_bytes(shape, padded, masked=True)
    seconds = flops / (GEMM_SHARE * hardware.flops) + kept * TRAFFIC / 3 / hardware.bandwidth
    return Estimate(name, num_texts * padded, flops, peak + hardware.overhead, seconds, "if no text is cached")


def evaluate(
    name: str, shape: Shape, work: Workload, *, retrieval_inputs: int, new_tokens: int, batch_tokens: int,
    options: bool, hardware: Hardware,
) -> Estimate:  # fmt: skip
    """All questions of a split over the full context, read once for its questions, and over the best chunks."""
    rows = work.asked
    context = max(rows.mean_tokens - rows.question_tokens - rows.label_tokens, 1.0)
    shares_context = options or rows.num > rows.num_contexts
    full = Rows(rows.num, rows.num_contexts, context, rows.longest, rows.question_tokens, rows.label_tokens)
    parts = [_read(shape, full, shares_context, new_tokens, batch_tokens, hardware)]
    best = Rows(rows.num, rows.num, context * work.kept_share, round(rows.longest * work.kept_share), *rows[4:])
    parts += retrieval_inputs * [_read(shape, best, options, new_tokens, batch_tokens, hardware)]
    together = max(1, batch_tokens // max(rows.longest, 1))
    in_batch = Pack(min(together, max(rows.num, 1)), max(rows.longest, 1), padded=False)
    in_tree = Pack(1, max(rows.longest, 1), padded=False)
    peak = max(
        memory.read_peak_bytes(shape, of, of.rows * (of.tokens + new_tokens))
        for of in ([in_tree] if options else [in_tree, in_batch])
    )
    tokens, flops, seconds = (sum(of) for of in zip(*parts, strict=True))
    return Estimate(name, tokens, flops, peak + hardware.overhead, seconds, "at most")


def teach(shape: Shape, work: Workload, *, new_tokens: int, batch_tokens: int, hardware: Hardware) -> Estimate:
    """The base's answers to all training questions over their best chunks, and its distributions along them."""
    rows = work.train
    num = rows.num + work.num_unlabelled
    context = max(rows.mean_tokens - rows.question_tokens - rows.label_tokens, 1.0) * work.kept_share
    best = Rows(num, num, context, round(rows.longest * work.kept_share), rows.question_tokens, rows.label_tokens)
    parts = [
        _read(shape, best, False, new_tokens, batch_tokens, hardware),
        _read(shape, best, False, 0, batch_tokens, hardware),
    ]
    longest = max(best.longest, 1)
    together = Pack(max(1, min(batch_tokens // longest, num)), longest, padded=True)
    peak = memory.read_peak_bytes(shape, together, together.rows * (longest + new_tokens))
    tokens, flops, seconds = (sum(of) for of in zip(*parts, strict=True))
    return Estimate("teach", tokens, flops, peak + hardware.overhead, seconds, "at most")


def _read(
    shape: Shape, rows: Rows, in_tree: bool, new_tokens: int, batch_tokens: int, hardware: Hardware
) -> tuple[float, float, float]:
    """Tokens, FLOPs and seconds of reading contexts and questions and of generating an answer to each."""
    context, question = round(rows.mean_tokens), round(rows.question_tokens)
    flops = rows.num_contexts * cost.forward_flops(shape, context)
    flops += rows.num * cost.continued_flops(shape, question, context, labels=1)
    flops += rows.num * new_tokens * cost.continued_flops(shape, 1, context + question, labels=1)
    tokens = rows.num_contexts * context + rows.num * (question + new_tokens)
    if in_tree:
        passes = max(rows.num_contexts, rows.num * question / PASS_TOKENS)
    else:
        passes = rows.num / max(1, batch_tokens // max(context + question, 1))
    steps = passes * (new_tokens + 2)
    kept = (tokens - rows.num * new_tokens) * shape.layers * memory.layer_bytes(shape, context, masked=False)
    seconds = flops / (GEMM_SHARE * hardware.flops) + kept * TRAFFIC / 3 / hardware.bandwidth
    seconds += steps * (shape.weight_bytes / hardware.bandwidth + shape.layers * LAYER_CALL_SECONDS)
    return tokens, flops, seconds


def analyze(
    shape: Shape, work: Workload, *, num_methods: int, num_examples: int, new_tokens: int, batch_tokens: int,
    hardware: Hardware,
) -> Estimate:  # fmt: skip
    """Three readings of some examples' views by each method (both views for what they are matched by, the
    full one for its attention), and an answer to each masked view."""
    rows = work.asked
    num = min(num_examples, rows.num)
    longest = float(rows.longest)
    looked = Rows(3 * num, 3 * num, longest, rows.longest, 0.0, 0.0)
    answered = Rows(num, num, longest, rows.longest, 0.0, 0.0)
    parts = num_methods * [
        _read(shape, looked, False, 0, batch_tokens, hardware),
        _read(shape, answered, False, new_tokens, batch_tokens, hardware),
    ]
    together = Pack(max(1, min(num, batch_tokens // max(rows.longest, 1))), max(rows.longest, 1), padded=True)
    peak = memory.read_peak_bytes(shape, together, together.rows * (together.tokens + new_tokens))
    tokens, flops, seconds = (sum(of) for of in zip(*parts, strict=True))
    return Estimate("analyze", tokens, flops, peak + hardware.overhead, seconds, f"{num_methods} methods")
