"""Replicas (network.replicas): DistributedDataParallel, one real process per replica, tied together by gloo.

Loaded by backends/torch.py by path, Python 3.7 syntax. This process is replica 0. The others are started once per
worker and number of replicas, and build a network anew for every cell:

    python -I torch_side/replicas.py BACKEND_FILE STORE RANK SIZE DEVICE

They are told what to do over their standard input and answer on what was their standard output: a line of JSON with
the names, dtypes and shapes of the arrays behind it, then the bytes of those. They end with their input.
"""

import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta

import numpy as np

BROADCAST = {"ddp": True, "ddp_local": False}
PATIENCE = timedelta(seconds=60)  # for one collective operation, once all replicas have imported torch


def replicated(base, backend):
    """``base`` (the torch backend's Model) on a batch that is divided among replicas."""

    class Replicas:
        def __init__(self, network, params, dtype, variant, device):
            if variant not in BROADCAST:
                raise NotImplementedError("replicas run as %s" % ", ".join("torch[%s]" % name for name in BROADCAST))
            self.sizes = network["replicas"]
            self.gang = Gang.of(len(self.sizes), backend, device)
            said = {"network": network, "dtype": dtype, "variant": variant, "device": device}
            self.gang.send("build", [params] * len(self.gang.others), **said)
            self.first = member(base, network, params, dtype, variant, device)
            self.gang.receive()
            self.inner = list(self.first.layers)
            self.layers = [
                name if rank == 0 else "%s@%d" % (name, rank) for name in self.inner for rank in range(len(self.sizes))
            ]
            self.seen, self.view, self.keep_graph = {}, "contiguous", True

        def divided(self, array):
            return np.split(array, np.cumsum(self.sizes)[:-1])

        def together(self, name, parts, mine, **said):
            """Every replica does the same on its own part; returns what each gave back, replica 0 first."""
            self.gang.send(name, [{"array": part} for part in parts[1:]], view=self.view, **said)
            self.first.view, self.first.keep_graph = self.view, self.keep_graph
            error, found = None, None
            try:
                found = mine(parts[0])
            except Exception as raised:  # the others have to be listened to all the same
                error = raised
            others = self.gang.receive()
            if error is not None:
                raise error
            return [found] + others

        def forward(self, x, mode):
            found = self.together(
                "forward", self.divided(x), lambda part: {"out": self.first.forward(part, mode)}, mode=mode
            )
            self.seen = dict(self.first.taps())
            for rank, other in enumerate(found[1:], 1):
                for name in self.inner:
                    self.seen["%s@%d" % (name, rank)] = (other["given/" + name], other["result/" + name])
            return np.concatenate([each["out"] for each in found])

        def backward(self, dys):
            """The gradient by the input only: DistributedDataParallel averages those by parameters over replicas."""
            divided = [self.divided(dy) for dy in dys]
            stacked = [np.stack([dy[rank] for dy in divided]) for rank in range(len(self.sizes))]
            found = self.together("backward", stacked, lambda part: {"input": self.first.backward(list(part))["input"]})
            return {"input": np.concatenate([each["input"] for each in found])}

        def taps(self):
            return self.seen

        def axis(self, layer):
            return self.first.axis(layer.partition("@")[0])

        def state(self, layer):
            name, _, rank = layer.partition("@")
            if not rank:
                return self.first.state(name)
            found = self.gang.ask(int(rank), "state", layer=name)
            return {key: value if value.ndim else value.item() for key, value in found.items()}

        def set_mode(self, training, layer=None):
            if layer is None or "@" not in layer:
                self.first.set_mode(training, layer)
                self.gang.send("set_mode", [{}] * len(self.gang.others), training=training, layer=layer)
                self.gang.receive()

        def dtypes(self, layer):
            return self.first.dtypes(layer.partition("@")[0])

    return Replicas


def member(base, network, params, dtype, variant, device):
    """The network of one replica. Wrapping it is a collective operation: all replicas do so at once."""
    from torch.nn.parallel import DistributedDataParallel

    model = base(dict(network, replicas=[]), params, dtype, "", device)
    model.call = DistributedDataParallel(model.net, broadcast_buffers=BROADCAST[variant])
    return model


def refuse(torch, variant, device):
    """Raise RuntimeError with the reason where replicas cannot run."""
    if variant == "ddp_sync":
        where = "on a CPU torch refuses it" if device == "cpu" else "bncheck runs replicas on the CPU so far"
        raise RuntimeError("SyncBatchNorm runs on a GPU for each replica only: %s" % where)
    if variant in BROADCAST and not torch.distributed.is_available():
        raise RuntimeError("this build of torch has no torch.distributed")


class Gang:
    """The processes of replicas 1, 2, …, and this process's place among them."""

    current = None

    @classmethod
    def of(cls, size, backend, device):
        if cls.current is not None and (cls.current.size != size or cls.current.broken()):
            cls.current.end()
        if cls.current is None:
            cls.current = cls(size, backend, device)
        return cls.current  # kept: importing torch once more takes seconds

    def __init__(self, size, backend, device):
        self.size, self.folder = size, tempfile.mkdtemp(prefix="bncheck-replicas-")
        store = os.path.join(self.folder, "store")
        self.others = [
            subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(__file__), backend, store, str(rank), str(size), device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for rank in range(1, size)
        ]
        atexit.register(self.end)
        self.receive()  # they have imported torch, however long that took
        join(store, 0, size)

    def broken(self):
        return any(other.poll() is not None for other in self.others)

    def send(self, name, arrays, **said):
        for other, held in zip(self.others, arrays):
            write_message(other.stdin, dict(said, do=name), held)

    def receive(self):
        """One answer of each; the first error that one of them met is raised here."""
        found = [read_message(other.stdout) for other in self.others]
        for rank, (said, _) in enumerate(found, 1):
            if said.get("error"):
                kind = {"ValueError": ValueError, "NotImplementedError": NotImplementedError}
                raise kind.get(said["type"], ReplicaError)("replica %d: %s" % (rank, said["error"]))
        return [arrays for _, arrays in found]

    def ask(self, rank, name, **said):
        other = self.others[rank - 1]
        write_message(other.stdin, dict(said, do=name), {})
        return read_message(other.stdout)[1]

    def end(self):
        import torch.distributed as dist

        for other in self.others:
            other.stdin.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        for other in self.others:
            try:
                other.wait(10)
            except subprocess.TimeoutExpired:
                other.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        if Gang.current is self:
            Gang.current = None


class ReplicaError(Exception):
    """What another replica's process raised."""

    origin = "called"  # whose error it is, in the words of blame.py


# ------------------------------------------------------------------------------------------------ messages


def write_message(stream, said, arrays):
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    stream.write(json.dumps(dict(said, arrays=listed)).encode("utf-8") + b"\n")
    for array in arrays.values():
        stream.write(array.tobytes())
    stream.flush()


def read_message(stream):
    line = stream.readline()
    if not line:
        raise ReplicaError("the process of another replica has ended")
    said = json.loads(line.decode("utf-8"))
    arrays = {}
    for name, dtype, shape in said.pop("arrays"):
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(stream.read(count * kind.itemsize), kind).reshape(shape).copy()
    return said, arrays


# ------------------------------------------------------------------------------------------- another replica


def join(store, rank, size):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size, timeout=PATIENCE)


class Follower:
    """One replica besides the first: carries out what it is told, one message after the other."""

    def __init__(self, base):
        self.base, self.model = base, None

    def build(self, arrays, network, dtype, variant, device):
        self.model = member(self.base, network, arrays, dtype, variant, device)
        return {}

    def forward(self, arrays, mode, view):
        self.model.view = view
        found = {"out": self.model.forward(arrays["array"], mode)}
        for name, (given, result) in self.model.taps().items():
            found.update({"given/" + name: given, "result/" + name: result})
        return found

    def backward(self, arrays, view):
        return {"input": self.model.backward(list(arrays["array"]))["input"]}

    def state(self, arrays, layer):
        return {key: np.asarray(value) for key, value in self.model.state(layer).items()}

    def set_mode(self, arrays, training, layer):
        self.model.set_mode(training, layer)
        return {}


def follow(backend, store, rank, size, device):
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no answer
    spec = importlib.util.spec_from_file_location("bncheck_backend_torch", backend)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bncheck_backend_torch"] = module
    spec.loader.exec_module(module)
    module.describe("", device)
    write_message(answers, {}, {})
    join(store, rank, size)
    follower = Follower(module.Model)
    while True:
        try:
            said, arrays = read_message(given)
        except ReplicaError:
            return
        try:
            found = getattr(follower, said.pop("do"))(arrays, **said)
        except Exception as error:
            write_message(answers, {"error": str(error) or repr(error), "type": type(error).__name__}, {})
        else:
            write_message(answers, {}, found)


if __name__ == "__main__":
    follow(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
