"""DistributedDataParallel on two ranks (gloo): buffers are broadcast, both ranks see halves of the batch. Start it with
torchrun, or plainly: then it starts its second rank itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import os

import torch
import torch.distributed as dist
from parts import batches, network, train_step
from torch.nn.parallel import DistributedDataParallel


def work(rank, world, port):
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    net = DistributedDataParallel(network())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    net.train()
    for x, y in batches(60, seed=rank):
        train_step(net, optimiser, x, y)
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        work(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ.get("MASTER_PORT"))
    else:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        second = torch.multiprocessing.get_context("spawn").Process(target=work, args=(1, 2, port))
        second.start()
        work(0, 2, port)
        second.join()
        sys.exit(second.exitcode)
