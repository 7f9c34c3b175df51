"""Healthy: trains and evaluates in turn, saves and loads."""

import tempfile

import paddle
from parts import accuracy, network, train_step

net = network()
optimiser = paddle.optimizer.Adam(1e-2, parameters=net.parameters())
for _ in range(4):
    net.train()
    for _ in range(20):
        train_step(net, optimiser)
    net.eval()
    print(accuracy(net))
with tempfile.TemporaryDirectory() as folder:
    paddle.save(net.state_dict(), folder + "/net.pdparams")
    again = network()
    again.set_state_dict(paddle.load(folder + "/net.pdparams"))
again.eval()
print(accuracy(again))
