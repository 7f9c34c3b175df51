# /// script
# requires-python = "==3.11.*"
# dependencies = ["torch==2.13.0", "numpy==2.4.6"]
# ///
# mxnet 1.9.1 moves its running statistics in backward, reference and torch 2.13.0 in forward.
import numpy as np
import torch
torch.set_num_threads(1)  # as in the run: more of them add in another order

X = np.ones((1, 2, 1, 1, 1), dtype='float32')
bn = torch.nn.BatchNorm2d(1, momentum=0.1, eps=1e-05)
net = bn
net.train()

x = torch.tensor(X[0]).requires_grad_()
y = net(x)

here = bn.running_mean.detach().numpy()
expected = 0  # what mxnet 1.9.1@cpu gives
print("running_mean:", here, "expected:", expected)
np.testing.assert_allclose(np.ravel(here), expected, rtol=1.3e-06, atol=1e-05)
