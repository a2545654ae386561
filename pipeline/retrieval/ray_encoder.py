"""Texts are encoded on the actors of a Ray cluster (Ray Data): one network and, on a CPU, one thread per actor.

Actors embed the batches of `TextEncoder.batches` with `TextEncoder.embed`, as one machine does: on processors of
the same kind the bytes are the same, however many actors there are.

Environment: RAY_ADDRESS (Ray's own: which cluster; unset: one of this machine alone, for this run), FOCUS_RAY_ACTORS
(unset: one per GPU, on a CPU one per core). No usage statistics are sent, and no dashboard is started.
"""

import logging
import os
import pickle
import platform
import signal
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.retrieval.checkpoint import digests
from pipeline.retrieval.encoder import EncoderBatch, TextEncoder, What, number_format
from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError, ResourceError, one_line

BLOCKS_PER_ACTOR = 8  # enough that slower actors get fewer
MAX_BATCHES_PER_BLOCK = 64  # what a killed run loses, for each actor
CONNECT_SECONDS = 10.0


class EncoderActor:
    """An encoder on one CPU core or GPU. It returns PipelineErrors, because Ray would wrap them in a traceback."""

    def __init__(self, encoder: TextEncoder, torch_version: str) -> None:
        """`encoder` and `torch_version` are those of the machine that started the stage."""
        self._encoder, self._error = encoder, None
        try:
            if encoder.device.type == "cpu":
                torch.set_num_threads(1)
            check_machine(encoder, torch_version)
            _ = encoder.network
        except PipelineError as error:
            self._error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embed a block of pickled batches; each result is the pickled pair of a batch (no inputs) and embedding_BD."""
        results = (self._error or self._embed(pickle.loads(row)) for row in block["pickled"].to_pylist())
        return _block(results)

    def _embed(self, batch: EncoderBatch) -> tuple[EncoderBatch, NDArray[np.float32]]:
        return batch._replace(inputs=None), self._encoder.embed(batch)


def check_machine(encoder: TextEncoder, torch_version: str) -> None:
    """Check that this machine sees the same files and calculates as the one that started the stage.

    Raises:
        ArtifactError: the folder is missing, or holds other files.
        ConfigError: this machine has another version of torch or another number format.
    """
    checkpoint, here = encoder.checkpoint, f"machine {platform.node()}"
    way_out = "put the encoder where all machines of the cluster see the same files, or set score.engine: local"
    try:
        _, files_sha256 = digests(checkpoint.folder)
    except OSError as error:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: {here} cannot read {error.filename} ({error.strerror}); {way_out}"
        ) from None
    if files_sha256 != checkpoint.files_sha256:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: the files in {checkpoint.folder} have digest {files_sha256} on "
            f"{here}, and {checkpoint.files_sha256} on the one that started the stage; {way_out}"
        )
    here_is, there_is = (str(torch.__version__), number_format(encoder.device)), (torch_version, encoder.dtype)
    if here_is != there_is:
        raise ConfigError(
            f"{here} has torch {here_is[0]} and embeds in {here_is[1]}, the one that started the stage has "
            f"{there_is[0]} and {there_is[1]}; give all machines the same environment and kind of processor, or set "
            "score.engine: local"
        )


def embed_all(
    encoder: TextEncoder, texts: Sequence[str], what: What
) -> Iterator[tuple[EncoderBatch, NDArray[np.float32]]]:
    """Embed texts on the cluster; yield each batch, without its inputs, and its embedding_BD, in any order.

    All token ids or texts are put into the cluster's memory first (about 3 bytes a token).

    Raises:
        ConfigError: Ray is not installed, or the cluster lacks what was asked for.
        ResourceError: the cluster cannot be reached, or it broke down.
        PipelineError: what an actor raises while it loads the encoder.
    """
    ray = _connected()
    most = num_actors(encoder.device.type, ray.cluster_resources())
    held = [ray.put(block) for block in blocks(encoder.batches(texts, what), most)]
    done = ray.data.from_arrow_refs(held).map_batches(
        EncoderActor,
        fn_constructor_args=(encoder, str(torch.__version__)),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(most, len(held))),
        **{"num_gpus" if encoder.device.type == "cuda" else "num_cpus": 1},
    )
    try:
        for block in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in block["pickled"].to_pylist():
                result = pickle.loads(row)
                if isinstance(result, PipelineError):
                    raise result
                yield result
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours in an actor: its traceback is wanted
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"score.engine is ray, and the cluster broke down ({one_line(error)}); what was embedded is in "
            "the cache: run the same command again, or set score.engine: local"
        ) from None


def blocks(batches: Iterable[EncoderBatch], num_actors: int) -> Iterator[pa.Table]:
    """Distribute batches over blocks. Every n-th batch is in one block, so that blocks take equally long although the
    batches are sorted by length."""
    remaining, num_blocks = iter(batches), num_actors * BLOCKS_PER_ACTOR
    while group := list(islice(remaining, MAX_BATCHES_PER_BLOCK * num_blocks)):
        for place in range(min(len(group), num_blocks)):
            yield _block(group[place::num_blocks])


def _block(rows: Iterable[Any]) -> pa.Table:
    return pa.table({"pickled": pa.array([pickle.dumps(row) for row in rows], pa.binary())})


def _connected() -> Any:
    """Return the module `ray`, connected to a cluster.

    Raises:
        ConfigError: Ray is not installed.
        ResourceError: the cluster cannot be reached or started.
    """
    # Before the import: no usage statistics, and no lines of Ray's C++ code on stderr.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    warnings.filterwarnings("ignore", module=r"ray\.")  # it warns of its own settings
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"score.engine is ray, but Ray Data cannot be imported ({error}); "
            '`pip install "focused-learning[ray]"`, or set score.engine: local'
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if not ray.is_initialized():
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            _check_reachable(os.environ.get("RAY_ADDRESS", ""))
            with _silent_stderr():
                ray.init(
                    # Without an address Ray would try the last cluster of this machine, for minutes if it died.
                    None if os.environ.get("RAY_ADDRESS") else "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    # Ship this code, because other machines may have none or another version of it.
                    runtime_env={"py_modules": [str(Path(__file__).parents[1])], "excludes": ["__pycache__"]},
                )
        except (OSError, RuntimeError, ValueError) as error:
            where = os.environ.get("RAY_ADDRESS")
            raise ResourceError(
                f"score.engine is ray, but {f'RAY_ADDRESS {where!r}' if where else 'a cluster on this machine'} gave "
                f"no connection ({one_line(error)}); start the cluster, correct RAY_ADDRESS, set "
                "RAY_AUTH_MODE=token if it asks for one, or set score.engine: local"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray replaced our handler
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError when nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence the file descriptor itself, because Ray's C++ code writes to it whatever its log level is."""
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def num_actors(device: str, resources: dict[str, float]) -> int:
    """Return FOCUS_RAY_ACTORS, else the number of actors that the cluster can run at once.

    Raises:
        ConfigError: FOCUS_RAY_ACTORS is no number or more than that, for which the run would wait forever.
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
