"""The training curves: one table that training, the page and dvc.yaml's plots read.

To add a curve, log it in training/ and add its entry here; with `always` also under `plots` in dvc.yaml. Training
refuses a curve that is not in this table, so none can vanish from the page.
"""

from typing import NamedTuple

from pipeline.runtime.methods import FOCUSED, GUIDED, TRAINED, Trained


class Curve(NamedTuple):
    """One quantity that training logs every `train.log_every` steps."""

    name: str
    """File name of the curve in reports/train/<method>/plots/metrics/train."""
    title: str
    """Title of its figure, on the page and in `dvc plots`."""
    unit: str
    """Label of the y axis."""
    methods: tuple[Trained, ...] = TRAINED
    """Methods that log it."""
    always: bool = True
    """False: only runs that give its loss a weight above 0 log it, so `dvc plots` leaves it out."""
    beside: str | None = None
    """Name of the curve in whose figure the page draws it, dashed; None: it has a figure of its own."""


CURVES = (
    Curve("loss", "Loss that is minimised", "nats"),
    Curve("clm_full", "Language-model loss, full view", "nats per answer token"),
    Curve("clm_masked", "Language-model loss, masked view", "nats per answer token", (FOCUSED,)),
    Curve("distill", "Divergence from the teacher", "nats per answer token", (GUIDED,)),
    Curve("attention", "Divergence of attention from the retriever's target", "nats", (FOCUSED, GUIDED), always=False),
    Curve(
        "consistency",
        "Divergence of the full view's answer from the masked view's",
        "nats per answer token",
        (FOCUSED,),
        always=False,
    ),
    Curve("info_nce", "Contrastive loss (InfoNCE)", "nats", (FOCUSED,)),
    Curve("in_batch_accuracy", "Own masked view is the nearest", "share of the batch", (FOCUSED,)),
    Curve("alignment", "Similarity of the two views", "cosine", (FOCUSED,)),
    Curve("alignment_others", "Similarity of views of different examples", "cosine", (FOCUSED,), beside="alignment"),
    Curve("grad_norm", "Gradient norm", "L2 norm"),
    Curve("learning_rate", "Learning rate of the adapter", "step size"),
)
NAMES = tuple(curve.name for curve in CURVES)


def require_known(names: set[str]) -> None:
    """Check that every logged curve is in the table.

    Raises:
        ValueError: some name is not.
    """
    if unknown := names - set(NAMES):
        raise ValueError(f"no curve of the name {', '.join(sorted(unknown))}; add it to pipeline/runtime/curves.py")
