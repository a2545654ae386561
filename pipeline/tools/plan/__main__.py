"""What the settings of now will cost, before anything heavy runs: `make plan`.

    python -m pipeline.tools.plan
    FOCUS_TFLOPS=989 FOCUS_GIB=139 python -m pipeline.tools.plan     # for an H200, from anywhere

Prints one table: for each stage its tokens, TFLOP, peak GiB and hours. Leaves with code 6 when a stage cannot fit into
memory or disk, and names the setting to change and a value that fits.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.common.methods import BASE, DISTILL, FOCUSED, TRAINED, Trained
from pipeline.runtime import config
from pipeline.runtime.errors import ResourceError
from pipeline.runtime.main import run
from pipeline.runtime.settings import EncoderRetriever, PlanStage
from pipeline.tools.plan import fitting, forecast, hardware, memory, model_shapes, workloads
from pipeline.tools.plan.forecast import Estimate, Hardware, Recipe
from pipeline.tools.plan.memory import Pack
from pipeline.tools.plan.shapes import Shape
from pipeline.tools.plan.workload import Workload
from pipeline.views import tasks

GIB = 2**30
ENCODER_TOKENS = {True: 1024, False: 65_536}  # of a batch on the CPU, on a GPU (pipeline/retrieval/embed.py)
WORDPIECES_PER_WORD = 1.35
LIGHT = "prepare, chunk, base, tokenize, mask, gate, report"


def main() -> None:
    settings = config.load(PlanStage)
    shape = model_shapes.base(settings.model)
    work = workloads.find(settings, shape.vocabulary)
    machine = hardware.find(settings.model.dtype, shape.hidden, shape.intermediate)
    rows = estimates(settings, shape, work, machine)
    disk = disk_bytes(settings, shape, work)
    free = shutil.disk_usage(Path()).free
    print("\n".join(table(rows, machine, work, disk, free)))
    if problems := [*_too_large(rows, settings, shape, work, machine), *_too_full(disk, free)]:
        raise ResourceError("; ".join(problems))


def recipe(settings: PlanStage, method: Trained) -> Recipe:
    """How the settings train a method."""
    train, lora, focused = settings.train, settings.lora, method == FOCUSED
    contrastive = focused and settings.contrastive.weight > 0
    return Recipe(
        method=method,
        steps=train.steps,
        batch_examples=train.batch_examples,
        batch_tokens=train.batch_tokens,
        negatives=train.negatives,
        questions_per_document=train.questions_per_document,
        checkpointing=train.activation_checkpointing,
        rank=lora.rank,
        embedding=lora.embedding == "lora",
        norms=lora.norms,
        mode=settings.mask.mode,
        contrastive=contrastive,
        reads_masked=contrastive or (focused and max(settings.views.masked, settings.views.consistency) > 0),
        taught=settings.distill.batch_questions if method == DISTILL else 0,
    )


def estimates(settings: PlanStage, shape: Shape, work: Workload, machine: Hardware) -> list[Estimate]:
    """One for each heavy stage, in the order of the graph."""
    task = tasks.of(settings.data.kind)
    new_tokens = settings.eval.max_new_tokens or task.max_new_tokens
    rows = list(_retrieval(settings, work, machine))
    methods = TRAINED if work.train.num else ()
    if methods:
        batch_tokens = settings.teach.batch_tokens
        rows.append(
            forecast.teach(shape, work, new_tokens=task.max_new_tokens, batch_tokens=batch_tokens, hardware=machine)
        )
    rows += [forecast.train(recipe(settings, method), shape, work, machine) for method in methods]
    evaluated = [("evaluate", work, 1 + settings.eval.longbench)]
    if work.surface.num:
        evaluated.append(("surface", replace(work, asked=work.surface), 0))
    for stage, asked, retrieval_inputs in evaluated:
        for method in (BASE, *methods):
            rows.append(
                forecast.evaluate(
                    f"{stage}@{method}",
                    shape,
                    asked,
                    retrieval_inputs=retrieval_inputs,
                    new_tokens=new_tokens,
                    batch_tokens=settings.eval.batch_tokens,
                    options=task.measure == "accuracy",
                    hardware=machine,
                )
            )
    analyzed = forecast.analyze(
        shape,
        work,
        num_methods=1 + len(methods),
        num_examples=settings.analyze.examples,
        new_tokens=new_tokens,
        batch_tokens=settings.eval.batch_tokens,
        hardware=machine,
    )
    return [*rows, analyzed] if methods else rows


def _retrieval(settings: PlanStage, work: Workload, machine: Hardware) -> Iterator[Estimate]:
    """Stages score and validate; those without an encoder are light."""
    batch_tokens = ENCODER_TOKENS[machine.name.startswith("cpu")]
    if isinstance(settings.retriever, EncoderRetriever):
        shape = model_shapes.encoder(settings.retriever)
        yield forecast.score("score", shape, work.num_texts, work.text_tokens, batch_tokens, machine)
    named = config.load_retrievers(settings.validation.retrievers).values()
    encoders = {each.source: each for each in named if isinstance(each, EncoderRetriever)}
    # Texts shorter than a chunk are the same at every size, and a text is encoded once, ever.
    text_words = work.text_tokens / WORDPIECES_PER_WORD
    sizes = {min(words, round(1.5 * text_words)) for words in settings.validation.chunk_words}
    known = min(settings.chunk.words, round(1.5 * text_words))
    total = Estimate("validate", note="at most; if no text is cached")
    for each in encoders.values():
        scored = isinstance(settings.retriever, EncoderRetriever) and each.source == settings.retriever.source
        for words in sizes - ({known} if scored else set()):
            num = max(1, round(work.num_texts * max(1.0, known / words)))
            tokens = work.text_tokens * min(1.0, words / known)
            one = forecast.score("validate", model_shapes.encoder(each), num, tokens, batch_tokens, machine)
            total = total._replace(
                tokens=total.tokens + one.tokens,
                flops=total.flops + one.flops,
                peak=max(total.peak, one.peak),
                seconds=total.seconds + one.seconds,
            )
    if total.tokens:
        yield total


def disk_bytes(settings: PlanStage, shape: Shape, work: Workload) -> dict[str, float]:
    """What a run writes, by kind; DVC's cache holds a second copy unless the file system shares blocks."""
    trained = shape.trainable(
        settings.lora.rank, embedding=settings.lora.embedding == "lora", norms=settings.lora.norms
    )
    adapter = 4.0 * trained
    if settings.lora.embedding == "lora":
        adapter += shape.vocabulary * shape.hidden * shape.bytes_per_weight
    tokens = sum(rows.num * rows.mean_tokens for rows in (work.train, work.asked))
    fetched = 0.0 if Path(settings.model.source).is_dir() else float(shape.weight_bytes)
    # Views: 4 bytes of a token, zstd to about half; documents and chunks: 4 characters of a token, likewise.
    return {
        "weights to fetch": fetched,
        "adapters": 2 * len(TRAINED) * adapter,
        "data": 2 * (2 * 2.0 * tokens + 2 * 2.0 * work.num_texts * work.text_tokens),
    }


def table(
    rows: list[Estimate], machine: Hardware, work: Workload, disk: dict[str, float], free: float
) -> Iterator[str]:
    """The lines that `make plan` prints."""
    yield f"For: {machine.name}, {machine.memory / GIB:,.1f} GiB. Data: {work.source}."
    train = work.train
    if train.num:
        yield (
            f"A row: {train.mean_tokens:,.0f} tokens, {train.longest:,} at most; {train.num:,} to train on, "
            f"{work.asked.num:,} asked over {work.asked.num_contexts:,} contexts."
        )
    yield ""
    yield "| Stage | Million tokens | TFLOP | Peak GiB | Time | |"
    yield "|:--|--:|--:|--:|--:|:--|"
    for row in rows:
        note = row.note if row.peak <= machine.memory else f"does not fit; {row.note}".removesuffix("; ")
        yield (
            f"| {row.name} | {row.tokens / 1e6:,.2f} | {row.flops / 1e12:,.1f} | {row.peak / GIB:,.1f} "
            f"| {_time(row.seconds)} | {note} |"
        )
    total = sum(row.seconds for row in rows)
    flops = sum(row.flops for row in rows)
    yield f"| all | {sum(row.tokens for row in rows) / 1e6:,.2f} | {flops / 1e12:,.1f} | | {_time(total)} | |"
    yield ""
    yield f"Light, seconds to minutes: {LIGHT}."
    parts = ", ".join(f"{name} {size / GIB:,.1f}" for name, size in disk.items() if size)
    yield f"Disk: {sum(disk.values()) / GIB:,.1f} GiB ({parts}); {free / GIB:,.0f} free."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _too_large(
    rows: list[Estimate], settings: PlanStage, shape: Shape, work: Workload, machine: Hardware
) -> Iterator[str]:
    """A clause for each stage that does not fit into memory."""
    for row in rows:
        if row.peak <= machine.memory:
            continue
        clause = f"{row.name} needs {row.peak / GIB:,.1f} GiB, there are {machine.memory / GIB:,.1f}"
        if row.name in ("score", "validate"):
            setting = "use.retriever to bm25" if row.name == "score" else "validation.retrievers to [bm25, random]"
            yield f"{clause}; set {setting}, which has no encoder"
            continue
        if memory.state_bytes(shape, 0) + machine.overhead > machine.memory:
            smaller = "model.dtype to bfloat16, or " if shape.bytes_per_weight == 4 else ""
            yield f"{clause}: the weights alone do not fit; set {smaller}use.model to a smaller one"
            return  # so it is with every other stage
        if row.name.startswith("train@"):
            trained = next(method for method in TRAINED if row.name == f"train@{method}")
            change = fitting.advice(recipe(settings, trained), shape, work, machine)
        else:
            stage = "teach" if row.name == "teach" else "eval"
            batch_tokens = settings.teach.batch_tokens if stage == "teach" else settings.eval.batch_tokens
            change = _reading_advice(stage, batch_tokens, shape, work, machine)
        yield f"{clause}; set {change or 'use.model to a smaller one'}"


def _reading_advice(stage: str, batch_tokens: int, shape: Shape, work: Workload, machine: Hardware) -> str:
    """The largest <stage>.batch_tokens that fits; less than a row makes no difference."""
    longest = max(work.asked.longest, 1)
    for rows in range(batch_tokens // longest, 0, -1):
        batch = Pack(rows, longest, padded=True)
        held = memory.read_peak_bytes(shape, batch, rows * (longest + 1024)) + machine.overhead
        if held <= machine.memory:
            return f"{stage}.batch_tokens to {rows * longest}"
    return f"model.max_tokens below {longest} with context.too_long cut_middle"


def _too_full(disk: dict[str, float], free: float) -> Iterator[str]:
    if (needed := sum(disk.values())) > free:
        yield (
            f"disk: {needed / GIB:,.1f} GiB needed, {free / GIB:,.1f} free; make room, or set FOCUS_CACHE and "
            "HF_HOME to folders of a larger disk"
        )


if __name__ == "__main__":
    run(main)
