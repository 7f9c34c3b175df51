"""Replicas (network.replicas) in a PyTorch script: it starts itself once more per replica, and all play the program.

Replica 0 is the process that the user started; it alone prints and compares. What it looks at in the others comes by
collective operations of gloo, which every version of torch has.
"""

from __future__ import annotations

from bncheck.repro.standalone.subject import CannotWriteError, Subject

BROADCAST = {"ddp": True, "ddp_local": False}


def imports(subject: Subject) -> list[str]:
    if not subject.case.network.replicas:
        return []
    if subject.target.variant not in BROADCAST:
        raise CannotWriteError(f"replicas do not run as {subject.target.name}")
    return [
        "import os",
        "import subprocess",
        "import tempfile",
        "from datetime import timedelta",
        "",
        "import torch.distributed as dist",
    ]


def started(subject: Subject) -> list[str]:
    """The other processes, and what the replicas do with each other."""
    sizes = list(subject.case.network.replicas)
    if not sizes:
        return []
    return [
        f"SIZES = {sizes}  # samples of each replica",
        'rank = int(os.environ.get("REPLICA", "0"))',
        'store = os.environ["STORE"] if rank else tempfile.mkdtemp() + "/store"',
        "others = []",
        "for replica in range(1, len(SIZES)) if not rank else ():",
        "    environment = dict(os.environ, REPLICA=str(replica), STORE=store)",
        "    others.append(subprocess.Popen([sys.executable, __file__], env=environment))",
        "if rank:",
        '    sys.stdout = open(os.devnull, "w")  # replica 0 alone prints',
        'dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=len(SIZES),',
        "                        timeout=timedelta(seconds=60))",
        "# What the script itself asks of the others does not meet what DistributedDataParallel asks of them.",
        "apart = dist.new_group(timeout=timedelta(seconds=600))",
        "",
        "",
        "def part(batch):",
        '    """This replica\'s samples."""',
        "    return batch[sum(SIZES[:rank]) : sum(SIZES[: rank + 1])]",
        "",
        "",
        "def whole(piece):",
        '    """The pieces of all replicas, one behind the other."""',
        "    full = torch.zeros(sum(SIZES), *piece.shape[1:], dtype=piece.dtype)",
        "    part(full).copy_(piece.detach())",
        "    dist.all_reduce(full, group=apart)",
        "    return full",
        "",
        "",
        "def of(replica, tensor):",
        '    """What a replica holds."""',
        "    held = tensor.detach().clone()",
        "    dist.broadcast(held, src=replica, group=apart)",
        "    return held",
        "",
        "",
        "def together(call):",
        '    """What one replica raises is raised in all: none may wait for another."""',
        "    result, error = None, None",
        "    try:",
        "        result = call()",
        "    except Exception as raised:",
        "        error = raised",
        "    failed = torch.tensor([float(error is not None)])",
        "    dist.all_reduce(failed, group=apart)",
        "    if failed.item():",
        '        raise error or RuntimeError("another replica raised")',
        "    return result",
        "",
        "",
    ]


def wrapped(subject: Subject) -> list[str]:
    if not subject.case.network.replicas:
        return []
    broadcast = BROADCAST[subject.target.variant]
    return [f"net = torch.nn.parallel.DistributedDataParallel(net, broadcast_buffers={broadcast})"]


def held(subject: Subject, text: str) -> str:
    """A tensor of the replica that the layer's name says: ``bn`` of the first, ``bn@1`` of the next."""
    if not subject.case.network.replicas:
        return text
    return f"of({int(subject.layer.partition('@')[2] or 0)}, {text})"


def ended(subject: Subject) -> list[str]:
    if not subject.case.network.replicas:
        return []
    return ["dist.destroy_process_group()", "for other in others:", "    other.wait()", "if rank:", "    sys.exit(0)"]
