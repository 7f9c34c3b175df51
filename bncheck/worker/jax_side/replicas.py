"""Replicas (network.replicas) on JAX: jax.shard_map, each replica's part of the batch on a device of its own.

Loaded by backends/flax.py by path, Python 3.7 syntax. Parameters are the same everywhere, every device keeps statistics
of its own; with ``axis_name`` BatchNorm averages moments over the devices (``lax.pmean``) before it uses them. On a CPU
JAX makes the devices out of it (start.import_jax). Parts are of one size: an array is sharded evenly or not at all.
"""

import numpy as np

AXIS = "replica"
SYNCHRONISED = {"shard_map": False, "shard_map_axis_name": True}
MOST = 8  # replicas that a scenario may have


def replicated(base, compiled, play):
    """``base`` (the Flax backend's Model) on a batch that is divided among replicas."""

    class Replicas(base):
        def __init__(self, jax, network, params, dtype, variant):
            self.sizes, self.whole = network["replicas"], SYNCHRONISED.get(variant)
            devices = devices_for(jax, self.sizes, variant)
            if self.whole:
                network = dict(network, layers=[with_axis(layer) for layer in network["layers"]])
            super().__init__(jax, network, params, dtype, variant)
            self.run = compiled(jax, sharded(play, devices))
            self.inner = list(self.layers)
            self.stacked = {name: self.spread(self.parts[name].split(None)[2]) for name in self.inner}
            for held in (self.specs, self.parts):
                held.update({called(name, rank): held[name] for name in self.inner for rank in self.ranks()})
            self.layers = [called(name, rank) for name in self.inner for rank in self.ranks()]
            self.modes = dict.fromkeys(self.layers)

        def ranks(self):
            return range(len(self.sizes))

        def spread(self, stats):
            """The same statistics on every device: a leading axis of replicas."""
            return self.jax.tree.map(lambda one: self.jax.numpy.stack([one] * len(self.sizes)), stats)

        def of_replica(self, name, rank):
            return self.jax.tree.map(lambda one: one[rank], self.stacked[name])

        def pieces(self):
            steps, params, stats = super().pieces()
            return steps, params, dict(stats, **self.stacked)

        def remember(self, moved, seen, x):
            self.seen, self.first = {}, None
            for name, found in moved.items():
                self.stacked[name] = found
                given, out = (self.seen_by_each(self.array(one)) for one in seen[name])
                self.seen.update({called(name, rank): (given[rank], out[rank]) for rank in self.ranks()})

        def seen_by_each(self, array):
            """What each replica's layer takes its moments of: its own part, or with axis_name the whole batch."""
            return [array for _ in self.sizes] if self.whole else np.split(array, len(self.sizes))

        def backward(self, dys):
            """The gradient by the input only: those by parameters are averaged over replicas by whoever trains."""
            self.used_up = True
            for pull, dy in zip(self.tape, dys):
                last = self.run["backward"](pull, self.jax.numpy.asarray(dy, dtype=self.dtype))[1]
            return {"input": self.array(last)}

        def state(self, layer):
            name, _, rank = layer.partition("@")
            self.parts[name].keep(self.of_replica(name, int(rank or 0)))
            return super().state(layer)

    return Replicas


def called(name, rank):
    return name if rank == 0 else "%s@%d" % (name, rank)


def with_axis(layer):
    if layer["type"] != "batch_norm":
        return layer
    native = layer["native"]
    return dict(layer, native=dict(native, flax=dict(native.get("flax", {}), axis_name=AXIS)))


def devices_for(jax, sizes, variant):
    """A device for each replica; NotImplementedError where JAX cannot divide such a batch here."""
    if variant not in SYNCHRONISED:
        raise NotImplementedError("replicas run as %s" % " and ".join("flax[%s]" % name for name in SYNCHRONISED))
    if len(set(sizes)) > 1:
        raise NotImplementedError(
            "JAX divides a batch evenly among devices, and these parts are of %s samples"
            % " and ".join(map(str, sizes))
        )
    found = jax.devices()
    if len(found) < len(sizes):
        raise NotImplementedError("jax sees %d devices, and each of %d replicas takes one" % (len(found), len(sizes)))
    return tuple(found[: len(sizes)])


def sharded(play, devices, _made={}):  # noqa: B006 - the default is the cache: a function is compiled once
    """``play`` on each device's part of the batch, with that device's statistics."""
    if devices not in _made:
        import jax
        from jax.sharding import Mesh
        from jax.sharding import PartitionSpec as Parts

        mesh = Mesh(np.array(devices), (AXIS,))

        def everywhere(steps, last, params, stats, x):
            def here(params, stats, x):
                out, (moved, seen) = play(steps, last, params, jax.tree.map(lambda one: one[0], stats), x)
                return out, (jax.tree.map(lambda one: one[None], moved), seen)

            each = Parts(AXIS)
            run = jax.shard_map(here, mesh=mesh, in_specs=(Parts(), each, each), out_specs=each)
            return run(params, stats, x)

        _made[devices] = everywhere
    return _made[devices]
