"""train.negatives: whether a contrastive batch is kept whole until one backward, or its forwards are computed twice."""

from collections.abc import Sequence

from pipeline import hardware
from pipeline.core import memory, shapes
from pipeline.errors import ConfigError
from pipeline.settings import Train


def retained(
    train: Train, shape: shapes.Shape, steps: Sequence[Sequence[tuple[int, int]]], num_trainable: int, kind: str
) -> bool:
    """Whether the graphs are kept. `auto` keeps them when the largest step fits into the memory of the device `kind`.

    The memory there is counts, not what is free of it now: the same machine decides the same each time.

    Args:
        steps: (rows, tokens) of each forward of each step, in one process.
    """
    if train.negatives != "auto":
        return train.negatives == "graph"
    of = kind.split(":")[0]
    largest = max(steps, key=lambda forwards: sum(rows * tokens for rows, tokens in forwards))
    peak = memory.train_peak_bytes(
        shape,
        [memory.Pack(rows, tokens) for rows, tokens in largest],
        retained=True,
        checkpointing=train.activation_checkpointing,
        num_trainable=num_trainable,
    )
    state = memory.state_bytes(shape, num_trainable)
    needed = hardware.OVERHEAD[of] + state + hardware.HOARD[of] * (peak - state)
    return needed <= hardware.memory(kind)


def refuse_graph_in_shards(train: Train) -> None:
    """Raises ConfigError: the layers are sharded, and train.negatives insists on one graph."""
    if train.negatives == "graph":
        raise ConfigError(
            "train.negatives is graph, but the layers are sharded over processes, which gather them anew for each "
            "backward; set it to cached or auto"
        )
