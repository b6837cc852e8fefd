"""One epoch as a training takes it: step, agree, save. It notes whom it saw at each step.

torchrun --nproc-per-node 2 -m tests.accio.one_epoch TABLE FOLDER
"""

import json
import os
import sys
import time
from pathlib import Path

import torch.distributed as dist

from lumos.accio.batch import NOBODY
from lumos.accio.loader import Accio
from lumos.accio.stream import Sampling
from lumos.accio.table import Columns, SequenceTable

COLUMNS = Columns(("clicks",))
BATCH_SIZE = 16
ELASTIC = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")


def loader_of(uri: str) -> Accio:
    table = SequenceTable.open(uri, COLUMNS, version=0)
    return Accio(table, Sampling(5, 2, 100, 110), batch_size=BATCH_SIZE, num_lanes=8)


def main(uri: str, folder: Path) -> None:
    """Go on from the last state until the epoch is over."""
    rank, size, restart = (int(os.environ[name]) for name in ELASTIC)
    # A meeting place of its own for every start: torchrun's still names the dead.
    meeting = f"file://{folder}/meeting-{restart}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    state, loader = folder / "state", loader_of(uri)
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    _appear(folder / f"pid-{rank}", os.getpid())
    if loader.epoch == 0:
        for batch in loader:
            step = int(batch.number.max()) // BATCH_SIZE
            while int((folder / "allowed").read_text()) <= step:
                time.sleep(0.001)
            users = batch.user_id[batch.number != NOBODY].tolist()
            _appear(folder / f"seen-{step:04d}-{rank}", users)
            dist.barrier()  # where a training adds up its gradients
            if rank == 0:
                _appear(state, loader.state_dict())
            dist.barrier()
    _appear(folder / f"done-{rank}", True)
    dist.destroy_process_group()


def _appear(path: Path, content: object) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.rename(path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
