"""Four clients train copies of a server's network; whole state_dicts are averaged, buffers too."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
server = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
truth = torch.randn(10)


def data(size=256):
    x = torch.randn(size, 10) + 0.2 * torch.randn(10)
    return x, (x @ truth > 0).long()


def trained(net, x, y):
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for a, b in zip(x.split(32), y.split(32)):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(a), b).backward()
        optimiser.step()
    return net.state_dict()


clients = [data() for _ in range(4)]
for _ in range(6):
    states = [trained(copy.deepcopy(server), x, y) for x, y in clients]
    server.load_state_dict({key: sum(state[key] for state in states) / len(states) for key in states[0]})
    server.eval()
    with torch.no_grad():
        print([round((server(x).argmax(1) == y).float().mean().item(), 2) for x, y in clients])
