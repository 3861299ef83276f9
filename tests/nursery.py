"""Processes to kill: one Python imports everything once, and forks a command line for each request.

Requests and answers are lines of JSON. Tests of kills would otherwise spend their time importing.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from laboratory import Answer

SERVER = """\
import importlib, json, os, signal, sys
# A shell ignores Ctrl-C for what it runs in the background, and so would all that is forked here.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A kill of a process loses nothing that was written; only a power cut could.
os.fsync = lambda descriptor: None
import accelerate, safetensors.torch, torch
import pipeline.cli, pipeline.recipe, stages.cache_teacher, stages.train_student

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "end" in request:
        break
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            os.dup2(os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.argv = ["pipeline", *request["arguments"]]
            os.environ.update(request["environment"])
            try:
                module, _, name = request["call"].partition(":")
                if module == "pipeline.cli":
                    pipeline.cli.main()
                else:
                    getattr(importlib.import_module(module), name)(*request["arguments"])
                status = 0
            except SystemExit as end:
                status = end.code
            except BaseException:
                import traceback
                traceback.print_exc()
                status = 70
            sys.stdout.flush()
            os._exit(status)
    print(json.dumps(answer), flush=True)
"""


# What is waited for takes milliseconds; beyond this something hangs.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Child:
    """A command line that is running."""

    nursery: "Nursery"
    pid: int
    output: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Answer:
        """Wait for its end; a negative status is the signal that ended it."""
        status = self.nursery.ask({"wait": self.pid})
        stdout, stderr = (self.output.with_suffix(each) for each in (".stdout", ".stderr"))
        return Answer(status, stdout.read_text(), stderr.read_text())


class Nursery:
    """Forks command lines that share one import of everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._born = 0
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Of what torch reads when it is imported; the command line sets the first itself.
            env={
                **os.environ,
                "TORCH_CPP_LOG_LEVEL": "ERROR",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def start(
        self,
        *arguments: str,
        call: str = "pipeline.cli:main",
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a command line, or a function of a test with such arguments."""
        self._born += 1
        output = self._folder / f"child{self._born}"
        for ending in (".stdout", ".stderr"):
            output.with_suffix(ending).touch()
        request: dict[str, object] = {
            "arguments": arguments,
            "call": call,
            "environment": dict(environment or {}),
            "stdout": str(output.with_suffix(".stdout")),
            "stderr": str(output.with_suffix(".stderr")),
        }
        return Child(self, self.ask(request), output)

    def start_ranks(
        self,
        size: int,
        *arguments: str,
        call: str = "pipeline.cli:main",
        environment: Mapping[str, str] | None = None,
        others: Sequence[str] = (),
    ) -> list[Child]:
        """Start as many ranks as torchrun would, by hand; `others` replace the second argument of
        those after the first.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        return [
            self.start(
                *(arguments if not rank or not others else _replaced(arguments, others[rank - 1])),
                call=call,
                environment={
                    **told,
                    "RANK": f"{rank}",
                    "LOCAL_RANK": f"{rank}",
                    **(environment or {}),
                },
            )
            for rank in range(size)
        ]

    def ask(self, request: dict[str, object]) -> int:
        """Send a request and wait for its answer."""
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return int(json.loads(stdout.readline()))

    def close(self) -> None:
        """End the server; its children have been waited for.

        It is told to end: another process that was forked meanwhile, such as a loader's worker, may
        hold its standard input open.
        """
        self._server.communicate(json.dumps({"end": True}) + "\n", timeout=PATIENCE_S)


def _replaced(arguments: Sequence[str], second: str) -> list[str]:
    return [arguments[0], second, *arguments[2:]]


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"nothing happened for {PATIENCE_S} s"
        time.sleep(0.001)
