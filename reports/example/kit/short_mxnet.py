# /// script
# requires-python = "==3.11.*"
# dependencies = ["mxnet==1.9.1", "numpy==1.23.5"]
# ///
# mxnet 1.9.1 moves its running statistics in backward, reference and torch 2.13.0 in forward.
import numpy as np
import mxnet as mx

X = np.ones((1, 2, 1, 1, 1), dtype='float32')
bn = mx.gluon.nn.BatchNorm(momentum=0.9, epsilon=1e-05, in_channels=1)
bn.initialize()
net = bn

x = mx.nd.array(X[0])
x.attach_grad()
with mx.autograd.record():
    y = net(x)

here = bn.running_mean.data().asnumpy()
expected = 0.1  # what reference@cpu gives
print("running_mean:", here, "expected:", expected)
np.testing.assert_allclose(np.ravel(here), expected, rtol=1.3e-06, atol=1e-05)
