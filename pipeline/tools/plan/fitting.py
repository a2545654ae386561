"""What to change when a training does not fit into memory: one setting where one is enough, else several."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.tools.plan import forecast, workload
from pipeline.tools.plan.forecast import Hardware, Recipe
from pipeline.tools.plan.shapes import Shape
from pipeline.tools.plan.workload import Workload

STEP = 256
"""Token settings are told in multiples of it."""
MIN_TOKENS = 512


def advice(recipe: Recipe, shape: Shape, work: Workload, hardware: Hardware) -> str:
    """Settings and values with which the training fits, as words; empty when none of ours make it fit.

    Cheapest first: what only splits the work, what computes more (checkpointing, cached negatives), what cuts the
    contexts. A later one is told together with those before it that it needs.
    """
    changed: list[str] = []
    for name, tried in _cheaper(recipe, work):
        if _fits(tried, shape, work, hardware):
            return name
    for name, tried in _cheaper(recipe, work, together=True):
        changed.append(name)
        recipe = tried
        if _fits(recipe, shape, work, hardware):
            return " and ".join(changed)
    high = work.train.longest // STEP * STEP
    for tokens in range(high, MIN_TOKENS - 1, -STEP):
        if _fits(replace(recipe, batch_tokens=tokens), shape, workload.with_cut(work, tokens), hardware):
            changed = [name for name in changed if not name.startswith("train.batch_tokens")]
            cut = f"model.max_tokens to {tokens} with context.too_long cut_middle"
            return " and ".join([*changed, f"train.batch_tokens to {tokens}", cut])
    return ""


def _fits(recipe: Recipe, shape: Shape, work: Workload, hardware: Hardware) -> bool:
    return forecast.train_peak(recipe, shape, work, hardware) <= hardware.memory


def _cheaper(recipe: Recipe, work: Workload, *, together: bool = False) -> Iterator[tuple[str, Recipe]]:
    """Each cheaper recipe with what it changes; `together`: each on top of those before it."""
    one_row = -(-work.train.longest // STEP) * STEP
    changes = [
        (f"train.batch_tokens to {one_row}", {"batch_tokens": one_row}, recipe.batch_tokens != one_row),
        ("train.activation_checkpointing to true", {"checkpointing": True}, not recipe.checkpointing),
        (
            "train.negatives to cached",
            {"negatives": "cached"},
            recipe.contrastive and recipe.negatives == "graph",
        ),
    ]
    now = recipe
    for name, change, helps in changes:
        if helps:
            tried = replace(now, **change)  # type: ignore[arg-type]  # names and values of Recipe's own fields
            now = tried if together else recipe
            yield name, tried
