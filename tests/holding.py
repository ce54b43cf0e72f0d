"""A run that stands still for as long as a test looks at it, whatever the speed of the machine."""

import time
from pathlib import Path

from lightning.pytorch import Callback, Trainer


class Hold(Callback):
    """Waits after a step for as long as a file is there.

    Args:
        step: which.
        file: such as one that the test deletes.
    """

    def __init__(self, step: int, file: str) -> None:
        self.step = step
        self.file = Path(file)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        while trainer.global_step == self.step and self.file.exists():
            time.sleep(0.02)
