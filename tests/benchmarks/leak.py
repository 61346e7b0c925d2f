"""What ``test_soak.py`` has a run do that it should not."""

import os
import tempfile
import threading
from pathlib import Path

from lightning import Callback

KIB = 4096


class Leak(Callback):
    """Keeps memory, a file, a thread, a temporary file and a file of the run in every step."""

    def __init__(self):
        self.kept = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kept += [os.urandom(1024 * KIB), os.open(os.devnull, os.O_RDONLY)]
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        os.close(tempfile.mkstemp()[0])
        (Path(trainer.log_dir) / f"{trainer.global_step}.txt").touch()
