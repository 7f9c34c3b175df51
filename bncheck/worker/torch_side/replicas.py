"""Replicas (network.replicas): DistributedDataParallel, one real process per replica, tied together by gloo.

Loaded by backends/torch.py by path, Python 3.7 syntax. This process is replica 0. The others are started once per
worker and number of replicas, and build a network anew for every cell. Where this process has one thread they are forks
of it; threads do not survive a fork, and where it has more, each is a process that imports torch by itself:

    python -I torch_side/replicas.py BACKEND_FILE STORE RANK SIZE DEVICE

They are told what to do over one stream and answer on another: a line of JSON with the names, dtypes and shapes of the
arrays behind it, then the bytes of those. They end with the first stream.
"""

import atexit
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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
            self.gang = Gang.of(len(self.sizes), base, backend, device)
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
    def of(cls, size, base, backend, device):
        if cls.current is not None and (cls.current.size != size or cls.current.broken()):
            cls.current.end()
        if cls.current is None:
            cls.current = cls(size, base, backend, device)
        return cls.current  # kept: importing torch once more takes seconds

    def __init__(self, size, base, backend, device):
        self.size, self.folder = size, tempfile.mkdtemp(prefix="bncheck-replicas-")
        store = os.path.join(self.folder, "store")
        self.others = []
        if may_fork() and importlib.util.find_spec("torch._dynamo") is not None:
            # DistributedDataParallel imports it in each of them, which takes as long as torch itself.
            importlib.import_module("torch._dynamo")
        for rank in range(1, size):
            self.others.append(
                Fork(base, store, rank, size, self.others)
                if may_fork()
                else subprocess.Popen(
                    [sys.executable, "-I", os.path.abspath(__file__), backend, store, str(rank), str(size), device],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
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


def may_fork():
    """Whether this process has one thread, which is known on Linux alone."""
    return sys.platform.startswith("linux") and len(os.listdir("/proc/self/task")) == 1


class Fork:
    """Another replica that begins as a fork of this process; as far as it is used like subprocess.Popen."""

    def __init__(self, base, store, rank, size, earlier):
        given, told = os.pipe()
        heard, answers = os.pipe()
        self.pid, self.returncode = os.fork(), None
        if not self.pid:
            os.close(told)
            os.close(heard)
            become(base, os.fdopen(given, "rb"), os.fdopen(answers, "wb"), store, rank, size, earlier)
        os.close(given)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(told, "wb"), os.fdopen(heard, "rb")

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = status if pid else None
        return self.returncode

    def wait(self, timeout):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("replica", timeout)
            time.sleep(0.002)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def become(base, given, answers, store, rank, size, earlier):
    """Another replica's process from here on; it never returns."""
    try:
        for other in earlier:  # a replica ends when nobody can tell it anything any more
            other.stdin.close()
            other.stdout.close()
        follow(base, given, answers, store, rank, size)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)


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


def begin(backend, device):
    """What a process of its own begins with: (Model of the backend, what it is told by, what it answers on)."""
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no answer
    spec = importlib.util.spec_from_file_location("bncheck_backend_torch", backend)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bncheck_backend_torch"] = module
    spec.loader.exec_module(module)
    module.describe("", device)
    return module.Model, given, answers


def follow(base, given, answers, store, rank, size):
    write_message(answers, {}, {})
    join(store, rank, size)
    follower = Follower(base)
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
    BACKEND, STORE, RANK, SIZE, DEVICE = sys.argv[1:]
    follow(*begin(BACKEND, DEVICE), store=STORE, rank=int(RANK), size=int(SIZE))
