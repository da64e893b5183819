"""Two processes under gloo, each with half of a batch, train as one process with all of it."""

import socket
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters

STEPS, WORLD = 5, 2
CONFIG = QLoRAConfig(rank=4)
METHODS = {
    "lora": CONFIG,
    "dora": replace(CONFIG, dora=True),
    "norms": replace(CONFIG, modules_to_save=["norm"]),
}


def curve(net: nn.Module, batches: torch.Tensor, micro: int) -> tuple[list[float], torch.Tensor]:
    """The loss of each step, and all adapters in the end; a step adds up `micro` backward passes.

    batches: [steps, rows, tokens].
    """
    model = net.module if isinstance(net, DistributedDataParallel) else net
    parameters = list(adapter_parameters(model).values())
    optimizer, losses = qk.optim.AdamW(parameters, lr=2e-3), []
    for batch in batches:
        total = 0.0
        for number, part in enumerate(batch.chunk(micro), start=1):
            waits = number < micro and isinstance(net, DistributedDataParallel)
            with net.no_sync() if waits else nullcontext():
                loss = net(input_ids=part, labels=part).loss / micro
                loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return torch.stack(losses), torch.cat([p.detach().flatten() for p in parameters])


@dataclass(frozen=True)
class Job:
    batches: torch.Tensor
    micro: int
    port: int
    folder: Path

    def run(self, rank: int) -> None:
        """What each process does; its results go into a file."""
        where = f"tcp://127.0.0.1:{self.port}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=WORLD)
        model = torch.load(self.folder / "model.pt", weights_only=False)
        if rank:  # DDP gives it the adapters of the first
            for parameter in adapter_parameters(model).values():
                parameter.data.fill_(0.1)
        net = DistributedDataParallel(model)
        losses, adapters = curve(net, self.batches[:, rank::WORLD], self.micro)
        dist.all_reduce(losses)
        torch.save((losses / WORLD, adapters), self.folder / f"{rank}.pt")
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("method", "micro"),
    [
        ("lora", 1),
        ("lora", 2),
        pytest.param("dora", 1, marks=pytest.mark.slow),
        pytest.param("norms", 2, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(model, rows, tmp_path, method: str, micro: int):
    torch.manual_seed(0)
    qk.prepare_model(model.train(), METHODS[method])
    batches = torch.stack([row["input_ids"] for row in rows[: 4 * STEPS]]).view(STEPS, 4, -1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    job = Job(batches, micro, port, tmp_path)
    torch.save(model, tmp_path / "model.pt")  # as an argument both would share its memory
    # Not forks of this process: other tests leave threads here, whose locks a fork would inherit.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    both = [context.Process(target=job.run, args=(rank,)) for rank in range(WORLD)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    losses, _ = curve(model, batches, micro)
    (first, adapters), (_, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert torch.equal(adapters, others), "both hold the same adapters"
    assert (first - losses).abs().max() < 1e-4
