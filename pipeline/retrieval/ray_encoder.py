"""Batches of an encoder on the actors of a Ray cluster (Ray Data): one network and, on the CPU, one thread per actor.

What reaches an actor is a batch as `encoder.plan` made it, and what embeds it is `encoder.embed_batch`, as on one
machine: on processors of the same kind the bytes are the same, however many actors there are.

Environment: RAY_ADDRESS (Ray's own: which cluster; unset: one of this machine alone, for this run), FOCUS_RAY_ACTORS
(unset: one per GPU, on a CPU one per core). Nothing is reported to anybody, and no dashboard is started.
"""

import logging
import os
import pickle
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.retrieval import encoder
from pipeline.runtime.errors import ConfigError, PipelineError, ResourceError

# B texts of a batch, D dimensions of an embedding

BLOCKS_PER_ACTOR = 8  # enough that slower actors get fewer
MAX_BATCHES_PER_BLOCK = 64  # what a killed run loses, for each actor
KNOCK_SECONDS = 10.0

_WORK = pa.schema(
    [
        ("number", pa.int64()),  # which batch of the plan
        ("num_tokens", pa.int32()),
        ("num_rows", pa.int32()),
        ("ids", pa.list_(pa.list_(pa.int32()))),
    ]
)
_DONE = pa.schema(
    [
        ("number", pa.int64()),
        ("embeddings", pa.binary()),  # embedding_BD, float32
        ("error", pa.binary()),  # pickled PipelineError, then no embeddings
    ]
)


class Recipe(NamedTuple):
    """How an actor makes its network, and what it embeds with."""

    make_network: Callable[[], Any]
    """Called once in each actor, there. Its PipelineErrors end the run here."""
    device: str
    """cpu or cuda: what an actor takes one of."""
    pad_id: int
    pooling: encoder.Pooling


class Actor:
    """One network. An error that is the user's to mend is returned, not raised: Ray would wrap it in a traceback."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._network: Any = None
        self._error: bytes | None = None
        try:
            if recipe.device == "cpu":
                torch.set_num_threads(1)
            self._network = recipe.make_network()
        except PipelineError as error:
            self._error = pickle.dumps(error)

    def __call__(self, work: pa.Table) -> pa.Table:
        done = []
        for row in work.to_pylist():
            embeddings = None if self._error else self._embed(row)
            done.append({"number": row["number"], "embeddings": embeddings, "error": self._error})
        return pa.Table.from_pylist(done, _DONE)

    def _embed(self, row: dict[str, Any]) -> bytes:
        batch = encoder.Batch(list(range(len(row["ids"]))), row["num_tokens"], row["num_rows"])
        embedding_BD = encoder.embed_batch(
            self._network, batch, row["ids"], pad_id=self._recipe.pad_id, pooling=self._recipe.pooling
        )
        return bytes(embedding_BD.numpy().tobytes())


def embed_all(
    planned: Iterable[tuple[encoder.Batch, list[list[int]]]], recipe: Recipe
) -> Iterator[tuple[list[int], Tensor]]:
    """`encoder.embed_all` on the cluster: the whole plan is put into its memory (4 bytes a token), batches come back
    in any order.

    Raises:
        ConfigError: Ray is not installed, or the cluster has not what is asked for.
        ResourceError: no connection to the cluster, or it broke down.
        PipelineError: of any kind that recipe.make_network raises in an actor.
    """
    ray = _connected()
    most = num_actors(recipe.device, ray.cluster_resources())
    indices_of: list[list[int]] = []
    held = [ray.put(block) for block in blocks(planned, most, indices_of)]
    takes = {"num_gpus": 1} if recipe.device == "cuda" else {"num_cpus": 1}
    done = ray.data.from_arrow_refs(held).map_batches(
        Actor,
        fn_constructor_args=(recipe,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(most, len(held))),
        **takes,
    )
    try:
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                if row["error"] is not None:
                    raise pickle.loads(row["error"])
                indices = indices_of[row["number"]]
                embedding_BD = np.frombuffer(row["embeddings"], dtype=np.float32).reshape(len(indices), -1)
                yield indices, torch.from_numpy(embedding_BD.copy())
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours in an actor: its traceback is wanted
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"score.engine is ray, and the cluster broke down ({_first_line(error)}); what was embedded is in the "
            "cache: run the same command again, or set score.engine: local"
        ) from None


def blocks(
    planned: Iterable[tuple[encoder.Batch, list[list[int]]]], num_actors: int, indices_of: list[list[int]]
) -> Iterator[pa.Table]:
    """The plan in blocks of batches, of _WORK; `indices_of` is filled with the indices of each batch."""
    rows = []
    for number, (batch, ids) in enumerate(planned):
        indices_of.append(batch.indices)
        rows.append({"number": number, "num_tokens": batch.num_tokens, "num_rows": batch.num_rows, "ids": ids})
        if len(rows) == MAX_BATCHES_PER_BLOCK * num_actors * BLOCKS_PER_ACTOR:
            yield from _split(rows, num_actors)
            rows = []
    yield from _split(rows, num_actors)


def _split(rows: list[dict[str, Any]], num_actors: int) -> Iterator[pa.Table]:
    """Every n-th batch to a block, so that blocks of a plan that is sorted by length take equally long."""
    num_blocks = min(len(rows), num_actors * BLOCKS_PER_ACTOR)
    for place in range(num_blocks):
        yield pa.Table.from_pylist(rows[place::num_blocks], _WORK)


def _connected() -> Any:
    """The module `ray` with a cluster behind it.

    Raises:
        ConfigError: it is not installed.
        ResourceError: the cluster cannot be reached or started.
    """
    # Before the import: no reports over the network, and no lines of the C++ side on stderr.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    warnings.filterwarnings("ignore", module=r"ray\.")  # it warns of its own settings
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f'score.engine is ray, but Ray Data cannot be imported ({error}); `pip install "ray[data]"`, '
            "or set score.engine: local"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if not ray.is_initialized():
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            _knock(os.environ.get("RAY_ADDRESS", ""))
            with _silent_stderr():
                ray.init(
                    # Else Ray tries the last cluster that was started here, for minutes when it died.
                    None if os.environ.get("RAY_ADDRESS") else "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    # This code, for machines that have none or another state of it.
                    runtime_env={"py_modules": [str(Path(__file__).parents[1])], "excludes": ["__pycache__"]},
                )
        except (OSError, RuntimeError, ValueError) as error:
            where = os.environ.get("RAY_ADDRESS")
            raise ResourceError(
                f"score.engine is ray, but {f'RAY_ADDRESS {where!r}' if where else 'a cluster on this machine'} gave "
                f"no connection ({_first_line(error)}); start the cluster, correct RAY_ADDRESS, set "
                "RAY_AUTH_MODE=token if it asks for one, or set score.engine: local"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in the place of ours
    return ray


def _knock(address: str) -> None:
    """Raises OSError when nobody answers at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing from the file descriptor itself: Ray's C++ side says there that it was told to be silent."""
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def num_actors(device: str, resources: dict[str, float]) -> int:
    """FOCUS_RAY_ACTORS, else as many as the cluster can run at once.

    Raises:
        ConfigError: more than that, or no number; the actors would be waited for forever.
    """
    kind = "GPU" if device == "cuda" else "CPU"
    most = int(resources.get(kind, 0))
    chosen = os.environ.get("FOCUS_RAY_ACTORS") or str(most)
    if device == "cpu" and resources.get("GPU") and not os.environ.get("FOCUS_DEVICE"):
        raise ConfigError(
            f"the Ray cluster has {int(resources['GPU'])} GPUs, but the machine that starts the stage has none, and "
            "its number format is the run's; start it on a machine with a GPU, or set FOCUS_DEVICE=cpu"
        )
    if not chosen.isdecimal() or not 1 <= int(chosen) <= most:
        raise ConfigError(
            f"FOCUS_RAY_ACTORS is {chosen!r}, and the Ray cluster has {most} {kind}s for one actor each; set a number "
            f"from 1 to {most}, add machines, or set score.engine: local"
        )
    return int(chosen)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
