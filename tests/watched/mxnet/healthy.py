"""Healthy: trains and evaluates in turn, saves and loads."""

import tempfile

from parts import accuracy, batch, network, train_step, trainer_of

net = network()
trainer = trainer_of(net)
for _ in range(4):
    for _ in range(20):
        train_step(net, trainer, *batch())
    print(accuracy(net))
with tempfile.TemporaryDirectory() as folder:
    net.save_parameters(folder + "/net.params")
    again = network()
    again.load_parameters(folder + "/net.params")
print(accuracy(again))
