"""Workers on this machine, of a scheduler that runs already, or as jobs of a batch system.

The only module that starts any. Each takes one task at a time, and on a machine with GPUs has one
of its own. Knows Dask and dask-jobqueue, not what is asked of the workers.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from pipeline.errors import PipelineError

CONFIG = {
    # A task is given up once so many of its workers have died, beyond the first.
    "distributed.scheduler.allowed-failures": 2,
    # It looks at every worker a hundred times a second, for a dashboard that few look at.
    "distributed.worker.profile.enabled": False,
    # Every process would wake up fifty times a second to see whether it is late, and twice to
    # measure itself: 10 % of a core, here, of what the teacher could have.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
CONNECT_S = 30
LOOPBACK = "127.0.0.1"
BATCH_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
}


@dataclass(frozen=True)
class Workers:
    """A connection to workers; `expected` of them are coming, and `where` names them to people."""

    client: Any
    expected: int
    where: str

    def __str__(self) -> str:
        """Name them, and Dask's dashboard, which there is with bokeh alone."""
        return f"{self.where}; {self.client.dashboard_link}" if find_spec("bokeh") else self.where


@contextmanager
def open_workers(kind: str, **options: Any) -> Iterator[Workers]:
    """Start workers, or connect to some; those started here are stopped in the end.

    Raises: PipelineError if a library is missing, nothing answers, or jobs cannot be submitted.
    """
    _require("distributed", *(["dask_jobqueue"] if kind in BATCH_SYSTEMS else []))
    import dask.config
    import distributed  # noqa: F401  # whose defaults must be there before ours

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        start: Callable[..., Workers] = KINDS[kind]
        yield start(stack, **options)


def visible_devices(worker: int) -> dict[str, str]:
    """Say, as environment, which GPU is a worker's own; nothing where there are none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if not count:
        return {}
    devices = named.split(",") if named else [str(index) for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": devices[worker % count]}


def _local(stack: ExitStack, workers: int) -> Workers:
    from distributed import Client, Nanny, Scheduler, SpecCluster

    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": LOOPBACK}
    options |= {"dashboard": False, "silence_logs": logging.CRITICAL}
    specs = {
        index: {"cls": Nanny, "options": {**options, "env": visible_devices(index)}}
        for index in range(workers)
    }
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, **_dashboard(f"{LOOPBACK}:0")}}
    cluster = SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.CRITICAL)
    stack.enter_context(cluster)
    return Workers(stack.enter_context(Client(cluster)), workers, "this machine's workers")


def _connect(stack: ExitStack, address: str) -> Workers:
    from distributed import Client

    try:
        client = stack.enter_context(Client(address, timeout=CONNECT_S))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"compute.address: no Dask scheduler answers at '{address}' ({error}). Start one with "
            "`dask scheduler`, give it workers of one thread, and name the address it says."
        ) from error
    return Workers(client, 1, f"the scheduler at {address}")


def _submit(
    stack: ExitStack,
    system: str,
    *,
    workers: int | None,
    workers_min: int,
    workers_max: int | None,
    **job: Any,
) -> Workers:
    import dask_jobqueue
    from distributed import Client

    make = getattr(dask_jobqueue, BATCH_SYSTEMS[system])
    cluster = stack.enter_context(make(**job_options(**job), scheduler_options=_dashboard(":0")))
    if workers_max is None:
        cluster.scale(jobs=workers)
    else:
        cluster.adapt(minimum_jobs=workers_min, maximum_jobs=workers_max)
    client = stack.enter_context(Client(cluster))
    return Workers(client, workers or workers_max or 1, f"the workers of {system}")


def job_options(*, setup: Sequence[str], extra: Sequence[str], **same: Any) -> dict[str, Any]:
    """Say the recipe's options of a job in the words of dask-jobqueue."""
    return {
        **same,
        "processes": 1,
        "job_script_prologue": list(setup),
        "job_extra_directives": list(extra),
        # The last one counts: a worker takes one task at a time, and gives it every core.
        "worker_extra_args": ["--nthreads", "1"],
    }


def _submit_to(system: str) -> Callable[..., Workers]:
    return lambda stack, **options: _submit(stack, system, **options)


KINDS: dict[str, Callable[..., Workers]] = {
    "local": _local,
    "dask": _connect,
    **{system: _submit_to(system) for system in BATCH_SYSTEMS},
}


def _dashboard(address: str) -> dict[str, Any]:
    return {"dashboard": bool(find_spec("bokeh")), "dashboard_address": address}


def _require(*libraries: str) -> None:
    for library in libraries:
        if find_spec(library) is None:
            name = library.replace("_", "-")
            raise PipelineError(
                f"compute: {name} is not installed, which spreads work over workers. "
                "pip install 'teacher-logit-cache[cluster]', or leave the table [compute] out."
            )
