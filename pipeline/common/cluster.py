"""A Ray cluster: which one, how many actors, and rows that are worked on there as in the stage's own process.

Environment: RAY_ADDRESS (Ray's own: which cluster; unset: one of this machine alone, for this run), FOCUS_RAY_ACTORS
(unset: one per GPU, on a CPU one per core). No usage statistics are sent, and no dashboard is started.
"""

import hashlib
import logging
import os
import pickle
import platform
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa

from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError, ResourceError, one_line

Engine = Literal["local", "ray"]
"""Where work is done: in this process, or on the actors of a Ray cluster."""
Made = TypeVar("Made")
ROWS_PER_BLOCK = 512
CONNECT_SECONDS = 10.0


def mapped(
    make: Callable[[], Callable[[Any], Made]],
    rows: Iterable[Any],
    engine: Engine,
    setting: str,
    reads: Sequence[Path],
) -> Iterator[Made]:
    """Yield make()(row) for each row, in their order; with engine `ray` by the actors of a cluster (Ray Data).

    There the rows go through the cluster's memory, which spills to its disks. `make` is sent to each actor and called
    there once, in the folder of this path; `reads` are the files that it reads.

    Raises:
        ArtifactError: a machine of the cluster sees other files than this one.
        ConfigError, ResourceError: as `connected` and `num_actors`.
        PipelineError: what `make`, or what it returns, raises.
    """
    if engine == "local":
        yield from map(make(), rows)
        return
    ray = connected(setting)
    remaining = iter(rows)
    groups = iter(lambda: list(islice(remaining, ROWS_PER_BLOCK)), [])
    held = [ray.put(block(group)) for group in groups]
    if not held:
        return
    done = ray.data.from_arrow_refs(held)
    done.context.execution_options.preserve_order = True
    done = done.map_batches(
        _Worker,
        fn_constructor_args=(make, Path.cwd(), {path: _sha256(path) for path in reads}, setting),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(num_actors("CPU", ray.cluster_resources(), setting), len(held))),
        num_cpus=1,
    )
    yield from results(ray, done, f"run the same command again, or set {setting}: local", setting)


class _Worker:
    """An actor that works on rows. It returns PipelineErrors, because Ray would wrap them in a traceback."""

    def __init__(
        self, make: Callable[[], Callable[[Any], Any]], folder: Path, sha256_of: Mapping[Path, str], setting: str
    ) -> None:
        self._error: PipelineError | None = None
        here, way_out = f"machine {platform.node()}", f"put the project where all see the same, or set {setting}: local"
        try:
            os.chdir(folder)
            for path, sha256 in sha256_of.items():
                if (found := _sha256(path)) != sha256:
                    raise ArtifactError(
                        f"{folder / path} has SHA-256 {found[:12]} on {here}, and {sha256[:12]} on the one that "
                        f"started the stage; {way_out}"
                    )
            self._work = make()
        except OSError as error:
            self._error = ArtifactError(f"{here} cannot read {folder / (error.filename or '')}; {way_out}")
        except PipelineError as error:
            self._error = error

    def __call__(self, rows: pa.Table) -> pa.Table:
        return block(self._error or self._result(pickle.loads(row)) for row in rows["pickled"].to_pylist())

    def _result(self, row: Any) -> Any:
        try:
            return self._work(row)
        except PipelineError as error:
            return error


def block(rows: Iterable[Any]) -> pa.Table:
    """Pickle rows into a block of Ray Data."""
    return pa.table({"pickled": pa.array([pickle.dumps(row) for row in rows], pa.binary())})


def results(ray: Any, dataset: Any, way_out: str, setting: str) -> Iterator[Any]:
    """Yield what the actors return in blocks of pickled rows.

    Raises:
        PipelineError: an actor returned it.
        ResourceError: the cluster broke down; the message ends with `way_out`.
    """
    try:
        for found in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in found["pickled"].to_pylist():
                result = pickle.loads(row)
                if isinstance(result, PipelineError):
                    raise result
                yield result
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours in an actor: its traceback is wanted
    except ray.exceptions.RayError as error:
        raise ResourceError(f"{setting} is ray, and the cluster broke down ({one_line(error)}); {way_out}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def connected(setting: str) -> Any:
    """Return the module `ray`, connected to a cluster; `setting` names the key of params.yaml that asks for it.

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
            f"{setting} is ray, but Ray Data cannot be imported ({error}); "
            f'`pip install "focused-learning[ray]"`, or set {setting}: local'
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
                f"{setting} is ray, but {f'RAY_ADDRESS {where!r}' if where else 'a cluster on this machine'} gave "
                f"no connection ({one_line(error)}); start the cluster, correct RAY_ADDRESS, set "
                f"RAY_AUTH_MODE=token if it asks for one, or set {setting}: local"
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


def num_actors(kind: Literal["CPU", "GPU"], resources: Mapping[str, float], setting: str) -> int:
    """Return FOCUS_RAY_ACTORS, else the number of actors that the cluster can run at once.

    Raises:
        ConfigError: FOCUS_RAY_ACTORS is no number or more than that, for which the run would wait forever.
    """
    most = int(resources.get(kind, 0))
    chosen = os.environ.get("FOCUS_RAY_ACTORS") or str(most)
    if not chosen.isdecimal() or not 1 <= int(chosen) <= most:
        raise ConfigError(
            f"FOCUS_RAY_ACTORS is {chosen!r}, and the Ray cluster has {most} {kind}s for one actor each; set a number "
            f"from 1 to {most}, add machines, or set {setting}: local"
        )
    return int(chosen)
