"""The tokens, FLOPs, peak memory and seconds of each heavy stage, the disk of a run, and what to change to make it fit.

Time is FLOPs over a stated share of the measured speed of a matrix product, and traffic (norms, activations, softmax,
copies) over the measured speed of memory. A generated token reads all weights once, however few tokens share the pass,
and every layer costs a call.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.runtime import config
from pipeline.runtime.methods import BASE, FOCUSED, GUIDED, METHODS, TRAINED, Trained
from pipeline.runtime.settings import DenseRetriever, Settings
from pipeline.tools.plan import cost, model_shape, workload
from pipeline.tools.plan.cost import Forward
from pipeline.tools.plan.hardware import Hardware
from pipeline.tools.plan.model_shape import Shape
from pipeline.tools.plan.workload import Rows, Workload
from pipeline.views import tasks

GEMM_SHARE = 0.5
"""Share of the measured speed of a matrix product that a whole model's products reach."""
TRAFFIC = 6
"""Times that forward and backward read or write each byte that autograd keeps of a layer."""
LAYER_CALL_SECONDS = 4e-4
"""Seconds of one layer's Python and kernel launches, in a pass that has little to compute."""
TOKENS_STEP, MIN_TOKENS = 256, 512
"""The advice tries values of model.max_tokens in this step, down to this one."""


class Estimate(NamedTuple):
    """The cost of one stage."""

    name: str
    tokens: float
    flops: float
    peak: float
    """Bytes."""
    seconds: float
    note: str = ""


def total(name: str, parts: list[Estimate], note: str = "") -> Estimate:
    """The cost of several stages, or parts of one, that run one after the other."""
    _, tokens, flops, peaks, seconds, _ = zip(*parts, strict=True)
    return Estimate(name, sum(tokens), sum(flops), max(peaks), sum(seconds), note)


class Prompts(NamedTuple):
    """Contexts that are read once each, and questions behind them that are answered."""

    num: int
    """Questions."""
    num_contexts: int
    context: float
    """Mean tokens of a context."""
    question: float
    """Mean tokens of a question."""
    new_tokens: int
    """Tokens generated for each question."""
    tree: bool = False
    """Questions over one context share a forward (pipeline/model/prefix_cache.py)."""


class View(NamedTuple):
    """Views of one kind in one step."""

    rows: int
    tokens: float
    """Tokens of a row, padding included."""
    labels: float
    """Label tokens of a row."""
    padded: bool
    """Attention is given a mask."""
    queries: float = 0.0
    """Tokens of a row whose attention is taught."""


@dataclass(frozen=True)
class Plan:
    """The settings, the base model, the data and the machine that the cost of a run follows from."""

    settings: Settings
    shape: Shape
    work: Workload
    machine: Hardware

    @property
    def methods(self) -> tuple[Trained, ...]:
        """Methods that are trained: none on a benchmark without training data."""
        return TRAINED if self.work.train.num else ()

    @property
    def num_trainable(self) -> int:
        """Trained parameters of one adapter."""
        lora = self.settings.lora
        return self.shape.trainable(lora.rank, embedding=lora.embedding, norms=lora.norms)

    @property
    def sections(self) -> dict[str, Callable[[], list[Estimate]]]:
        """Forecasts of all heavy stages in the order of the graph, by the section of params.yaml that sizes them."""
        return {
            "retriever": self.score,
            "validation": self.validate,
            "teach": self.teach,
            "train": self.train,
            "eval": self.evaluate,
        }

    def score(self) -> list[Estimate]:
        """Forecast stage score; it is light without an encoder."""
        retriever = self.settings.retriever
        if not isinstance(retriever, DenseRetriever):
            return []
        return [self._encode("score", retriever, self.work.num_texts, self.work.text_tokens)]

    def validate(self) -> list[Estimate]:
        """Forecast stage validate; it is light without an encoder."""
        settings, work = self.settings, self.work
        named = config.load_retrievers(settings.validation.retrievers).values()
        encoders = {each.source: each for each in named if isinstance(each, DenseRetriever)}
        # Texts shorter than a chunk are the same at every size, and a text is encoded once, ever.
        whole = round(1.5 * work.text_tokens / workload.WORDPIECES_PER_WORD)
        sizes = {min(words, whole) for words in settings.validation.chunk_words}
        known = min(settings.chunk.words, whole)
        used = settings.retriever.source if isinstance(settings.retriever, DenseRetriever) else None
        parts = [
            self._encode(
                "validate",
                encoder,
                max(1, round(work.num_texts * max(1.0, known / words))),
                work.text_tokens * min(1.0, words / known),
            )
            for source, encoder in encoders.items()
            for words in sizes - ({known} if source == used else set())
        ]
        return [total("validate", parts, "at most; if no text is cached")] if parts else []

    def _encode(self, stage: str, retriever: DenseRetriever, num_texts: int, text_tokens: float) -> Estimate:
        """Forecast one pass of texts through an encoder, none of them in the cache."""
        from pipeline.retrieval import encoder  # imports torch

        shape = model_shape.encoder(retriever)
        tokens = max(1, min(round(text_tokens), retriever.max_tokens))
        flops = num_texts * cost.forward_flops(shape, tokens, padded=True)
        rows = max(1, encoder.SEQUENCE_TOKENS[self.machine.kind] // tokens)
        peak = cost.read_peak_bytes(shape, Forward(rows, tokens, padded=True), 0) + self.machine.overhead
        kept = num_texts * tokens * shape.layers * cost.layer_bytes(shape, tokens, masked=True)
        return Estimate(stage, num_texts * tokens, flops, peak, self._seconds(flops, kept / 3), "if no text is cached")

    def teach(self) -> list[Estimate]:
        """Forecast the base's answers to all training questions over their best chunks, and its distributions."""
        if not self.methods:
            return []
        rows, kept_share = self.work.train, self._share_of_best(self.settings.teach.top_k)
        num, new_tokens = rows.num + self.work.num_unlabelled, tasks.of(self.settings.data.kind).max_new_tokens
        answers = Prompts(num, num, _context(rows) * kept_share, rows.question_tokens, new_tokens)
        batch_tokens = self.settings.teach.batch_tokens
        batch = _largest(num, round(rows.longest * kept_share), batch_tokens, padded=True)
        return [self._read("teach", [answers, answers._replace(new_tokens=0)], [batch], batch_tokens)]

    def _share_of_best(self, top_k: int) -> float:
        """Share of a context's tokens in its best chunks; the masked views keep mask.top_k of them."""
        return min(1.0, self.work.kept_share * top_k / self.settings.mask.top_k)

    def train(self) -> list[Estimate]:
        """Forecast the training of each method's adapter."""
        return [self._train(method) for method in self.methods]

    def _train(self, method: Trained) -> Estimate:
        train, lora = self.settings.train, self.settings.lora
        contrastive = self._contrastive(method)
        cached = contrastive and train.negatives == "cached"
        recompute: cost.Recompute = "early_stop" if train.activation_checkpointing else "none"
        tokens, flops, attention, kept = 0.0, 0.0, 0.0, 0.0
        for rows, row_tokens, labels, padded, queries in self._views(method, longest=False):
            tokens += rows * row_tokens
            flops += rows * cost.training_flops(
                self.shape,
                round(row_tokens),
                labels=round(labels),
                recompute=recompute,
                rank=lora.rank,
                embedding=lora.embedding == "lora",
                padded=padded,
                cached=cached,
            )
            attention += rows * cost.attention_rows_flops(
                self.shape, round(row_tokens), queries=queries, layers=self._taught_layers, recompute=recompute
            )
            mask = cost.has_mask(self.shape, round(row_tokens), padded=padded)
            layer = cost.layer_bytes(self.shape, round(row_tokens), masked=mask)
            kept += rows * row_tokens * self.shape.layers * layer
        flops += attention
        seconds = self._seconds(flops, (1 + (train.activation_checkpointing + cached) / 3) * kept)
        notes = [f"negatives {train.negatives}"] if contrastive else []
        if cached and self.changed({"train.negatives": "graph"}).train_peak(method) <= self.machine.memory:
            notes.append("graph would fit too, and computes less")
        if attention:
            notes.append(f"taught attention {100 * attention / flops:.2g} % of the FLOPs")
        peak, steps = self.train_peak(method), train.steps
        return Estimate(f"train@{method}", steps * tokens, steps * flops, peak, steps * seconds, "; ".join(notes))

    @property
    def _taught_layers(self) -> int:
        """Layers whose attention is taught."""
        layers = self.settings.attention.layers
        return self.shape.layers if layers == "all" else len(layers)

    def train_peak(self, method: Trained) -> float:
        """Bytes that the process holds in the largest step, in which every row is as long as the longest."""
        train, lora, batches = self.settings.train, self.settings.lora, []
        for rows, tokens, labels, padded, _ in self._views(method, longest=True):
            together = max(1, min(rows, train.batch_tokens // round(tokens)))
            sizes = [min(together, rows - start) for start in range(0, rows, together)]
            batches += [Forward(size, round(tokens), labels, padded) for size in sizes]
        return self.machine.overhead + cost.train_peak_bytes(
            self.shape,
            batches,
            retained=self._contrastive(method) and train.negatives == "graph",
            checkpointing=train.activation_checkpointing,
            num_trainable=self.num_trainable,
            rank=lora.rank,
            hoard=self.machine.hoard,
        )

    def _contrastive(self, method: Trained) -> bool:
        return method == FOCUSED and self.settings.contrastive.weight > 0

    def _views(self, method: Trained, *, longest: bool) -> list[View]:
        """List what one step reads."""
        settings, rows, batch = self.settings, self.work.train, self.settings.train.batch_examples
        tokens = float(max(rows.longest, 1))
        padded = batch > 1 and settings.train.batch_tokens >= 2 * rows.mean_tokens
        if not longest:
            # A batch is as long as its longest row, which lies somewhere between the mean and the longest of all.
            tokens = max((rows.mean_tokens + rows.longest) / 2 if padded else rows.mean_tokens, 1.0)
        shared = min(float(settings.train.questions_per_document), rows.num / max(rows.num_contexts, 1))
        shared = max(1.0, min(shared, batch))
        added = (shared - 1) * (rows.question_tokens + rows.label_tokens)
        distill, attention = settings.distill, settings.attention
        weight = {FOCUSED: settings.views.attention, GUIDED: attention.weight}.get(method, 0.0)
        chosen = {"last_prompt": 1.0, "question": rows.question_tokens, "answer": rows.label_tokens}
        queries = chosen[attention.queries] if weight > 0 else 0.0
        full, labels = max(1, round(batch / shared)), rows.label_tokens
        found = [View(full, tokens + added, shared * labels, padded or shared > 1, shared * queries)]
        reads_masked = max(settings.contrastive.weight, settings.views.masked, settings.views.consistency) > 0
        if method == FOCUSED and reads_masked:
            share = 1.0 if settings.mask.mode == "token" else self.work.masked_share
            found.append(View(batch, max(tokens * share, 1.0), labels, padded))
        if method == GUIDED:
            found = found if distill.labelled > 0 else []
            if distill.weight > 0 or weight > 0:
                found.append(View(distill.batch_questions, tokens, labels, padded, queries))
        return found

    def evaluate(self) -> list[Estimate]:
        """Forecast the stages that read the evaluation's data, each with batches of eval.batch_tokens at most."""
        work, settings = self.work, self.settings.eval
        methods = (BASE, *self.methods)
        found = [self._answer(f"evaluate@{each}", work.asked, settings.top_k_of.values()) for each in methods]
        if work.surface.num:
            found += [self._answer(f"surface@{each}", work.surface, ()) for each in methods]
        return [*found, self._analyze()] if self.methods else found

    @property
    def _new_tokens(self) -> int:
        return self.settings.eval.max_new_tokens or tasks.of(self.settings.data.kind).max_new_tokens

    def _answer(self, stage: str, rows: Rows, top_ks: Iterable[int]) -> Estimate:
        """Forecast a split's questions over the full context, read once for all of them, and over the best chunks."""
        options = tasks.of(self.settings.data.kind).measure == "accuracy"
        batch_tokens = self.settings.eval.batch_tokens
        tree = options or rows.num > rows.num_contexts
        context, question = _context(rows), rows.question_tokens
        full = Prompts(rows.num, rows.num_contexts, context, question, self._new_tokens, tree)
        best = [
            Prompts(rows.num, rows.num, context * self._share_of_best(top_k), question, self._new_tokens, options)
            for top_k in top_ks
        ]
        batches = [_largest(1, rows.longest, 1)]
        if not options:
            batches.append(_largest(rows.num, rows.longest, batch_tokens))
        return self._read(stage, [full, *best], batches, batch_tokens)

    def _analyze(self) -> Estimate:
        """Forecast stage analyze: three readings of some examples' views by each method (both views for matching, the
        full one for attention), and an answer to each masked view."""
        rows, batch_tokens = self.work.asked, self.settings.eval.batch_tokens
        num = min(self.settings.analyze.examples, rows.num)
        looked = Prompts(3 * num, 3 * num, rows.longest, 0.0, 0)
        answered = Prompts(num, num, rows.longest, 0.0, self._new_tokens)
        batch = _largest(num, rows.longest, batch_tokens, padded=True)
        estimate = self._read("analyze", len(METHODS) * [looked, answered], [batch], batch_tokens)
        return estimate._replace(note=f"{len(METHODS)} methods")

    def _read(self, stage: str, asked: list[Prompts], largest: list[Forward], batch_tokens: int) -> Estimate:
        """Forecast reading and answering prompts without gradient, of which `largest` are the largest forwards."""
        from pipeline.model import prefix_cache  # imports torch

        shape, all_tokens, all_flops, all_seconds = self.shape, 0.0, 0.0, 0.0
        for num, num_contexts, context_tokens, question_tokens, new_tokens, tree in asked:
            context, question = round(context_tokens), round(question_tokens)
            flops = num_contexts * cost.forward_flops(shape, context)
            flops += num * cost.continued_flops(shape, question, context, labels=1)
            flops += num * new_tokens * cost.continued_flops(shape, 1, context + question, labels=1)
            tokens = num_contexts * context + num * question
            if tree:
                passes = max(num_contexts, num * question / prefix_cache.PASS_TOKENS)
            else:
                passes = num / max(1, batch_tokens // max(context + question, 1))
            kept = tokens * shape.layers * cost.layer_bytes(shape, context, masked=False)
            step = shape.weight_bytes / self.machine.bandwidth + shape.layers * LAYER_CALL_SECONDS
            all_tokens += tokens + num * new_tokens
            all_flops += flops
            all_seconds += self._seconds(flops, kept / 3) + passes * (new_tokens + 2) * step
        most = max(prompts.new_tokens for prompts in asked)
        peak = max(cost.read_peak_bytes(shape, each, each.rows * (each.tokens + most)) for each in largest)
        return Estimate(stage, all_tokens, all_flops, peak + self.machine.overhead, all_seconds, "at most")

    def _seconds(self, flops: float, kept: float) -> float:
        """Seconds of computing, and of the traffic that goes with `kept` bytes of activations."""
        return flops / (GEMM_SHARE * self.machine.flops) + TRAFFIC * kept / self.machine.bandwidth

    def disk_bytes(self) -> dict[str, float]:
        """Bytes that a run writes, by kind; DVC's cache holds a second copy unless the file system shares blocks."""
        shape, work, model = self.shape, self.work, self.settings.model
        adapter = 4.0 * self.num_trainable
        if self.settings.lora.embedding == "lora":
            adapter += shape.vocabulary * shape.hidden * shape.bytes_per_weight
        tokens = sum(rows.num * rows.mean_tokens for rows in (work.train, work.asked))
        # Views: 4 bytes of a token, zstd to about half; documents and chunks: 4 characters of a token, likewise.
        return {
            # Of a GGUF file they lie in models/base, where the shape was read.
            "weights to fetch": 0.0 if model.is_gguf or Path(model.source).is_dir() else float(shape.weight_bytes),
            "adapters": 2 * len(TRAINED) * adapter,
            "data": 2 * (2 * 2.0 * tokens + 2 * 2.0 * work.num_texts * work.text_tokens),
        }

    def changed(self, changes: dict[str, Any]) -> "Plan":
        """The plan with other settings, by their names (`train.negatives`)."""
        settings = self.settings
        for name, value in changes.items():
            section, key = name.split(".")
            settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update={key: value})})
        return replace(self, settings=settings, work=self.work.cut(settings.model.max_tokens))

    def advice(self, section: str) -> str:
        """The first change of settings with which all stages of a section fit into memory, in words; empty: none."""
        for changes in self._changes(section):
            if all(row.peak <= self.machine.memory for row in self.changed(changes).sections[section]()):
                return " and ".join(f"{name} to {str(value).lower()}" for name, value in changes.items())
        return ""

    def _changes(self, section: str) -> Iterator[dict[str, Any]]:
        """List changes from the cheapest on: split the work, compute more, both, and at last cut the contexts."""
        train, batch = self.settings.train, f"{section}.batch_tokens"
        now: int = getattr(self.settings, section).batch_tokens
        smaller = [{batch: now >> halvings} for halvings in range(1, 12) if now >> halvings >= MIN_TOKENS]
        slower: list[dict[str, Any]] = [{}]
        if section == "train" and not train.activation_checkpointing:
            slower.append({"train.activation_checkpointing": True})
        if section == "train" and train.negatives == "graph" and self.settings.contrastive.weight > 0:
            slower += [{**each, "train.negatives": "cached"} for each in slower]
        for each in slower:
            yield from ({**each, **split} for split in ({}, *smaller))
        longest = self.work.asked.longest if section == "eval" else self.work.train.longest
        for tokens in range(longest // TOKENS_STEP * TOKENS_STEP, MIN_TOKENS - 1, -TOKENS_STEP):
            split = {batch: tokens} if tokens < now else {}
            cut = {"context.too_long": "cut_middle"} if self.settings.context.too_long == "refuse" else {}
            yield {**slower[-1], **split, "model.max_tokens": tokens, **cut}


def _context(rows: Rows) -> float:
    """Mean tokens of a row's context."""
    return max(rows.mean_tokens - rows.question_tokens - rows.label_tokens, 1.0)


def _largest(num: int, longest: int, batch_tokens: int, *, padded: bool = False) -> Forward:
    """The largest forward over `num` rows as long as the longest, within `batch_tokens` where these hold a row."""
    longest = max(longest, 1)
    return Forward(max(1, min(num, batch_tokens // longest)), longest, padded=padded)
