"""The command, whose ranks wait for each other for 20 seconds at most once all are there; their start takes longer."""

from datetime import timedelta

import torch

from visplay.__main__ import main

begin = torch.distributed.init_process_group


def begin_and_limit(*given: object, **named: object) -> None:
    begin(*given, **named)
    store = torch.distributed.distributed_c10d._get_default_store()
    assert store.timeout == timedelta(minutes=10), "it is that of the strategy"
    store.set_timeout(timedelta(seconds=20))


if __name__ == "__main__":
    torch.distributed.init_process_group = begin_and_limit
    main()
