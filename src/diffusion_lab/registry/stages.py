"""Work in stages, of which each is done once, however often the whole is cut short and called again."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.files import held, replacing
from diffusion_lab.registry.gate import now
from diffusion_lab.registry.manifest import parsed
from diffusion_lab.sweeps import terminable

STATE = "pipeline.json"


class Stages:
    """What of a run is done, kept in its folder.

    Args:
        folder: of the run; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: dict[str, Any] = {}

    @contextlib.contextmanager
    def alone(self, arguments: Sequence[str]) -> Iterator[None]:
        """Keeps a second call out of the folder as long as this one lasts, or a script that it started.

        Args:
            arguments: of this call, kept for those that go on with it.

        Raises:
            ValueError: if another one is at work.
        """
        with held(self.folder / ".pipeline.lock") as self._lock:
            path = self.folder / STATE
            self.done = dict(parsed(path)["done"]) if path.is_file() else {}
            self.arguments = list(arguments)
            self._save()
            yield

    def once(self, stage: str, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Does a stage, or says what came of it when it was done.

        Args:
            stage: its name.
            work: may be done twice, if the process is killed between its end and the note of it; returns plain JSON.
        """
        if stage in self.done:
            print(f"{stage}: done {self.done[stage]['at']}", flush=True)
        else:
            print(f"{stage}: begins", flush=True)
            self.done[stage] = {**work(), "at": now()}
            self._save()
        facts: Mapping[str, Any] = self.done[stage]
        return facts

    def forget(self, stage: str) -> None:
        """Lets a stage be done again."""
        self.done.pop(stage, None)
        self._save()

    def call(self, script: Path, overrides: Sequence[str]) -> None:
        """Runs a script as a person would; it is told to stop when this process is.

        Raises:
            ValueError: if it ends with an error, which it has said itself.
        """
        # A script that outlives a killed pipeline keeps the folder locked.
        process = subprocess.Popen([sys.executable, str(script), *overrides], pass_fds=[self._lock])
        with terminable():
            try:
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()  # training saves a checkpoint first
                    process.wait()
        if code != 0:
            raise ValueError(
                f"{script.name} ended with exit code {code}, as it says above; then go on by "
                f"pipeline.py resume={self.folder}"
            )

    def _save(self) -> None:
        facts = {"arguments": self.arguments, "done": self.done}
        with replacing(self.folder / STATE) as fresh:
            fresh.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def earlier(folder: Path) -> Sequence[str]:
    """The arguments of the call that began a run.

    Raises:
        FileNotFoundError: if none did.
    """
    path = folder / STATE
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' has no {STATE}: name a folder that pipeline.py made")
    arguments: Sequence[str] = parsed(path)["arguments"]
    return arguments


def newest(logs: Path) -> Path:
    """The run below a folder of logs whose pipeline was at work last.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(logs.glob(f"*/*/{STATE}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(f"resume=auto found no run of pipeline.py in '{logs}': start one without resume=")
    return found[-1].parent
