"""Processes to kill: one Python imports everything once, and forks a command line for each request.

Requests and answers are lines of JSON. Tests of kills would otherwise spend their time importing.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from laboratory import Answer

SERVER = """\
import json, os, sys
import accelerate, safetensors.torch, torch
import pipeline.cli, pipeline.recipe, stages.cache_teacher, stages.train_student

for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            os.dup2(os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.argv = ["pipeline", *request["arguments"]]
            try:
                pipeline.cli.main()
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
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, *arguments: str) -> Child:
        """Start a command line."""
        self._born += 1
        output = self._folder / f"child{self._born}"
        request = {
            "arguments": arguments,
            "stdout": str(output.with_suffix(".stdout")),
            "stderr": str(output.with_suffix(".stderr")),
        }
        return Child(self, self.ask(request), output)

    def ask(self, request: dict[str, object]) -> int:
        """Send a request and wait for its answer."""
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return int(json.loads(stdout.readline()))

    def close(self) -> None:
        """End the server; its children have been waited for."""
        self._server.communicate()
