"""Writes the gradients of a tiny language model: two processes' average, and one alone's.

Run once a process: the folder to meet in and to write to, the rank, and how many there are.
"""

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from train import linear_gatekeeper_loss


class Model(nn.Module):
    """Embeds tokens, mixes them, and has the tied loss in its forward pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 6, dtype=torch.float64)
        self.mix = nn.Linear(6, 6, dtype=torch.float64)
        self.head = nn.Linear(6, 11, dtype=torch.float64)

    def forward(self, tokens, labels, denominator):
        hidden = torch.tanh(self.mix(self.embedding(tokens)))
        tied, untied = (
            linear_gatekeeper_loss(
                hidden, weight, labels, 0.4, bias=self.head.bias, denominator=denominator
            )
            for weight in (self.embedding.weight, self.head.weight)
        )
        return tied + untied


def gradients(model):
    return {name: one.grad for name, one in model.named_parameters()}


def main(folder, rank, count):
    meeting = (folder / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    tokens = torch.arange(24).reshape(4, 6) % 11
    labels = tokens.roll(-1, dims=1)
    labels[0, :4] = -100  # the processes have different numbers of tokens
    items = float((labels != -100).sum())
    if rank == 0:
        alone = Model()
        alone(tokens, labels, items).backward()
        torch.save(gradients(alone), folder / "alone.pt")
    shared = DistributedDataParallel(Model())
    own = slice(rank, None, count)
    # The processes' gradients are averaged, not summed.
    shared(tokens[own], labels[own], items / count).backward()
    if rank == 0:
        torch.save(gradients(shared.module), folder / "both.pt")
    distributed.barrier()  # one that left early would break the connection of the other
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
