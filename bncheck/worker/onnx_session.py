"""An existing ONNX file on onnxruntime: as it is, in inference and in training mode, optimised or not.

Loaded by backends/onnxruntime.py by path. Python 3.7 syntax. What is recorded is one play without graph optimisation,
with every BatchNormalization's input and output made an output of the graph. Beside it the file is played with graph
optimisation, and with the optional outputs (the new running statistics) not asked for: how far those plays lie from
the recorded one is said in the cell's notes, because all of them should give the same.
"""

import numpy as np

# Beside the recorded play: graph optimisation on or off, the optional outputs asked for or not.
BESIDE = {"optimised": (True, True), "unused": (False, False), "optimised_unused": (True, False)}


class Model:
    """The worker's model contract on a file. ``files`` is onnx_file.py."""

    def __init__(self, files, path, providers):
        import onnx

        self.onnx, self.files, self.path, self.providers = onnx, files, path, providers
        self.graph = files.read(path)
        self.norms = {norm.layer: norm for norm in files.batch_norms(self.graph)}
        self.layers = list(self.norms)
        self.held = {(layer, what): array for layer, norm in self.norms.items() for what, array in norm.held.items()}
        self.modes = {layer: norm.training for layer, norm in self.norms.items()}
        self.moved, self.sessions, self.seen, self.plays = False, {}, {}, []
        self.proto = onnx.load(path)
        self.session("as_is", False, False)  # a file that onnxruntime refuses is refused before the first event

    # -- the file in other modes ------------------------------------------------------------------------------

    def edited(self, mode, taps):
        """Bytes of the model in a mode; the untouched file where nothing has to be changed."""
        if mode == "as_is" and not taps and not self.moved:
            return None
        model = self.onnx.ModelProto()
        model.CopyFrom(self.proto)
        nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        shown = [item.name for item in model.graph.output]
        for norm, node in zip(self.norms.values(), nodes):
            self.set_mode(node, norm, mode)
            if self.moved:
                self.set_statistics(model, node, norm.layer)
            shown += [node.input[0], node.output[0]] if taps else []
            shown += self.new_statistics(node) if self.training(norm, mode) else []
        known = {item.name for item in model.graph.output} | {item.name for item in model.graph.input}
        made = {name for node in model.graph.node for name in node.output}
        for item in [item for item in model.graph.output if item.name not in made]:
            model.graph.output.remove(item)  # statistics that inference no longer gives
        for name in dict.fromkeys(shown):
            if name not in known and name in made:
                model.graph.output.append(self.onnx.ValueInfoProto(name=name))
        return model.SerializeToString()

    def training(self, norm, mode):
        return norm.training if mode == "as_is" else mode != "eval"

    def set_mode(self, node, norm, mode):
        """Training is an attribute since opset 14, and the number of outputs before."""
        if mode == "as_is":
            return
        training, count = self.training(norm, mode), 5 if self.graph.opset < 14 else 3
        if self.graph.opset >= 14:
            kept = [item for item in node.attribute if item.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend(kept + [self.onnx.helper.make_attribute("training_mode", int(training))])
        names = list(node.output)
        del node.output[:]
        made = ["bncheck/%s/%d" % (norm.layer, place) for place in range(count)]
        names = [(names[place] if place < len(names) and names[place] else made[place]) for place in range(count)]
        node.output.extend(names if training else names[:1])

    def set_statistics(self, model, node, layer):
        """What training forwards have moved takes the place of the file's own statistics."""
        for place, what in ((3, "running_mean"), (4, "running_var")):
            name = "bncheck/%s/%s" % (layer, what)
            model.graph.initializer.append(self.onnx.numpy_helper.from_array(self.held[layer, what], name))
            node.input[place] = name

    def new_statistics(self, node):
        return [name for name in list(node.output)[1:3] if name]

    def session(self, mode, optimise, taps):
        """A session, kept until the statistics move."""
        key = (mode, optimise, taps)
        if key not in self.sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            levels = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
            options.log_severity_level = 4
            source = self.edited(mode, taps)
            try:
                self.sessions[key] = onnxruntime.InferenceSession(
                    self.path if source is None else source, options, providers=self.providers
                )
            except Exception as error:
                self.refuse(error)
        return self.sessions[key]

    def refuse(self, error):
        """onnxruntime's reason in its own words, without the paths of its build."""
        words = [line for line in str(error).split("\n") if line.strip()]
        said = words[0].split(" : ", 3)[-1] if words else repr(error)
        said = said.split("std::string&, int) ")[-1][:600]
        if type(error).__name__ == "NotImplemented":
            raise NotImplementedError("onnxruntime has no kernel: %s" % said)
        raise self.files.FileError(
            "onnxruntime refuses the file, which declares opset %d (%s): %s"
            % (self.graph.opset, type(error).__name__, said)
        )

    # -- events -----------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        mode = {"no_grad": "train"}.get(mode, mode)
        notes = {"mode": mode}
        self.plays.append(notes)  # also where it raises: the n-th note is the n-th forward's
        feeds = self.files.feed(self.graph, x)
        found = self.run(mode, feeds, False, True, True)
        for name, (optimise, used) in BESIDE.items():
            self.beside(notes, name, mode, feeds, found, optimise, used)
        out = found[self.graph.outputs[0]]
        finite = np.abs(out[np.isfinite(out)])
        notes["scale"] = float(finite.max()) if finite.size else 0.0
        found.update(feeds)
        self.remember(mode, found)
        return out

    def run(self, mode, feeds, optimise, used, taps):
        """{name: array} of one play; ``used`` asks for every output, else for the first alone."""
        session = self.session(mode, optimise, taps)
        names = [item.name for item in session.get_outputs()]
        wanted = names if used else [self.graph.outputs[0]]
        return dict(zip(wanted, session.run(wanted, feeds)))

    def beside(self, notes, name, mode, feeds, found, optimise, used):
        """Largest difference of another play to the recorded one, over all outputs that both have; of statistics
        relative to their largest value."""
        try:
            again = self.run(mode, feeds, optimise, used, False)
        except Exception as error:
            notes[name + "_refused"] = "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:300])
            return
        for key, array in again.items():
            what = name if key == self.graph.outputs[0] else name + "_statistics"
            gap, size = largest_gap(array, found[key]), np.abs(found[key]).max() if what != name else 1.0
            notes[what] = larger(notes.get(what, 0.0), gap if gap == "inf" else gap / max(float(size), 1e-30))

    def remember(self, mode, found):
        """Taps, and the statistics that training nodes put out."""
        self.seen, moved = {}, False
        for layer, norm in self.norms.items():
            self.modes[layer] = self.training(norm, mode)
            self.seen[layer] = (found[norm.node.inputs[0]], found[norm.node.outputs[0]])
            if self.modes[layer]:
                for place, what in ((1, "running_mean"), (2, "running_var")):
                    names = norm.node.outputs
                    name = names[place] if place < len(names) and names[place] else "bncheck/%s/%d" % (layer, place)
                    if name in found:
                        self.held[layer, what], moved = found[name], True
        if moved:
            self.moved, self.sessions = True, {}

    def run_exported(self, folder, x):
        return {"output": self.forward(x, "as_is")}

    def backward(self, dys):
        raise NotImplementedError("onnxruntime runs models, it has no backward")

    def flush(self):
        """session.run returns when the outputs are there."""

    # -- what is recorded -------------------------------------------------------------------------------------

    def taps(self):
        return self.seen

    def axis(self, layer):
        return 1

    def state(self, layer):
        norm = self.norms[layer]
        found = {"training": int(self.modes[layer]), "momentum": norm.momentum, "eps": norm.eps}
        found.update((what, array) for (name, what), array in self.held.items() if name == layer and array is not None)
        return found

    def facts(self):
        return {"file": dict(self.files.describe(self.graph), plays=self.plays)}


def largest_gap(a, b):
    """Largest |a − b|; NaN and Inf in the same place on both sides are no difference, on one side an infinite one."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if a.shape != b.shape or not np.isfinite(np.where(same, 0, a - b)).all():
        return "inf"
    return float(np.abs(np.where(same, 0, np.subtract(a, b, dtype=np.float64))).max()) if a.size else 0.0


def larger(a, b):
    return "inf" if "inf" in (a, b) else max(a, b)
