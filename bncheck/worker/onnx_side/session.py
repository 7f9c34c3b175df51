"""An existing ONNX file on onnxruntime: as it is, in inference and in training mode, optimised or not.

Loaded by backends/onnxruntime.py by path. Python 3.7 syntax. What is recorded is one play without graph optimisation,
with every BatchNormalization's input and output made an output of the graph. Beside it the file is played with graph
optimisation, and with the optional outputs (the new running statistics) not asked for: how far those plays lie from
the recorded one is said in the cell's notes, because all of them should give the same. Where they do not, judge.py
finds out which is right.
"""

import numpy as np

MODES = {"eval": "inference", "train": "training"}
# Beside the recorded play: graph optimisation on or off, the optional outputs asked for or not.
BESIDE = {"optimised": (True, True), "unused": (False, False), "optimised_unused": (True, False)}


class Model:
    """The worker's model contract on a file. The parts are file.py, oracle.py and judge.py."""

    def __init__(self, files, oracle, judge, path, providers):
        import onnx

        self.onnx, self.files, self.path, self.providers = onnx, files, path, providers
        self.oracle, self.judge, self.lacking = oracle, judge, ""
        self.graph = files.read(path)
        self.norms = {norm.layer: norm for norm in files.batch_norms(self.graph)}
        self.layers = list(self.norms)
        self.held = {(layer, what): array for layer, norm in self.norms.items() for what, array in norm.held.items()}
        self.modes = {layer: norm.training for layer, norm in self.norms.items()}
        self.moved, self.sessions, self.seen, self.plays = False, {}, {}, []
        self.proto = onnx.load(path)
        self.held.update(self.computed_parameters())
        self.fixed = {key for key, array in self.held.items() if array is not None}
        self.opened, self.closed = self.open_sizes(), []
        try:
            oracle.playing(files, self.graph)
        except (NotImplementedError, files.FileError) as error:
            self.lacking = str(error)
        self.session("as_is", False, True, False)  # a file that onnxruntime refuses is refused before the first event

    def open_sizes(self):
        """Names of inputs whose size 0 means "any", made so: onnxruntime 1.31.1 takes a 0 literally."""
        opened = []
        for item in self.proto.graph.input if self.graph.inputs else ():
            for size in item.type.tensor_type.shape.dim if item.name in self.graph.inputs else ():
                if size.HasField("dim_value") and size.dim_value == 0:
                    size.ClearField("dim_value")
                    opened.append(item.name)
        return sorted(set(opened))

    def computed_parameters(self):
        """{(layer, what): array} of parameters that the graph computes from weights alone, as onnxruntime does. Those
        that it computes of the batch, or cannot compute, are no state of the layer."""
        found, stored = {}, {item.name for item in self.proto.graph.initializer}
        for layer, norm in self.norms.items():
            for what, name in zip(self.files.ROLES, norm.node.inputs[1:5]):
                places = None if norm.held[what] is not None else self.files.behind(self.graph, name, stored)
                if places:
                    try:
                        found[layer, what] = self.play_alone(places, name)
                    except Exception:
                        continue  # the file as a whole says why
        return found

    def play_alone(self, places, name):
        import onnxruntime

        model = self.onnx.ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import)
        model.graph.name = "bncheck"
        model.graph.node.extend(self.proto.graph.node[place] for place in places)
        read = {each for node in model.graph.node for each in node.input}
        model.graph.initializer.extend(item for item in self.proto.graph.initializer if item.name in read)
        model.graph.output.append(self.onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=self.providers)
        return session.run(None, {})[0]

    # -- the file in other modes ------------------------------------------------------------------------------

    def edited(self, mode, taps):
        """Bytes of the model in a mode; the untouched file where nothing has to be changed."""
        if mode == "as_is" and not taps and not self.moved and not self.opened:
            return None
        model = self.onnx.ModelProto()
        model.CopyFrom(self.proto)
        ours = (node for node in model.graph.node if node.domain in ("", "ai.onnx"))
        nodes = [node for node in ours if node.op_type == "BatchNormalization"]
        shown = [item.name for item in model.graph.output]
        for norm, node in zip(self.norms.values(), nodes):
            self.set_mode(node, norm, mode)
            if self.moved:
                self.set_statistics(model, node, norm.layer)
            shown += [node.input[0], node.output[0], *self.of_the_batch(norm)] if taps else []
            # Asked for, new statistics have a place of their own to go to: a play that is judged leaves them out.
            shown += self.new_statistics(node) if self.training(norm, mode) and taps != "nodes" else []
        known = {item.name for item in model.graph.output} | {item.name for item in model.graph.input}
        made = {name for node in model.graph.node for name in node.output}
        for item in [item for item in model.graph.output if item.name not in made]:
            model.graph.output.remove(item)  # statistics that inference no longer gives
        for name in dict.fromkeys(shown):
            if name not in known and name in made:
                model.graph.output.append(self.onnx.ValueInfoProto(name=name))
        return model.SerializeToString()

    def of_the_batch(self, norm):
        """Names of the parameters that the graph computes of the batch."""
        return [
            name for what, name in zip(self.files.ROLES, norm.node.inputs[1:5]) if (norm.layer, what) not in self.fixed
        ]

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
            if self.held[layer, what] is None:  # computed of the batch, and no training forward has moved it
                continue
            name = "bncheck/%s/%s" % (layer, what)
            model.graph.initializer.append(self.onnx.numpy_helper.from_array(self.held[layer, what], name))
            node.input[place] = name

    def new_statistics(self, node):
        return [name for name in list(node.output)[1:3] if name]

    def statistics(self, mode):
        """{name of an output: (layer, running statistic)} of the training nodes."""
        found = {}
        for layer, norm in self.norms.items():
            for place, what in ((1, "running_mean"), (2, "running_var")) if self.training(norm, mode) else ():
                names = norm.node.outputs
                kept = place < len(names) and names[place]
                found[names[place] if kept else "bncheck/%s/%d" % (layer, place)] = (layer, what)
        return found

    def compared(self, mode):
        eps = {layer: norm.eps for layer, norm in self.norms.items()}
        return self.judge.Compared(self.graph.outputs, self.statistics(mode), eps)

    def session(self, mode, optimise, used, taps, without=()):
        """A session, kept until the statistics move; ``without`` names optimisers to leave out. An optimised one may
        change its own weights as it runs (1.31.1 does), so that each way to ask it has a session of its own."""
        key = (mode, optimise, used or not optimise, taps, without)
        if key not in self.sessions:
            try:
                self.sessions[key] = self.make(mode, optimise, taps, without)
            except Exception as error:
                self.refuse(error, mode)
        return self.sessions[key]

    def make(self, mode, optimise, taps, without, severity=4):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        options.log_severity_level = severity
        # Threads that spin while they wait took four fifths of the CPU time of a small file.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source, more = self.edited(mode, taps), {"disabled_optimizers": list(without)} if without else {}
        return onnxruntime.InferenceSession(
            self.path if source is None else source, options, providers=self.providers, **more
        )

    def forget(self):
        """Let go of sessions that were made to find an optimiser."""
        self.sessions = {key: session for key, session in self.sessions.items() if not key[-1]}

    def refuse(self, error, mode):
        """onnxruntime's reason in its own words, without the paths of its build."""
        words = [line for line in str(error).split("\n") if line.strip()]
        said = words[0].split(" : ", 3)[-1] if words else repr(error)
        said = said.split("std::string&, int) ")[-1][:600]
        if type(error).__name__ == "NotImplemented":
            raise NotImplementedError("onnxruntime has no kernel: %s" % said)
        if mode != "as_is":  # the file as it lies there was taken when the model was built
            raise NotImplementedError("the file cannot be put into %s mode: %s" % (MODES[mode], said))
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
        plays = {"recorded": self.run(mode, feeds, False, True, True)}
        found = plays["recorded"]
        self.refuse_outputs(found)
        for name, (optimise, used) in BESIDE.items():
            self.beside(notes, plays, name, mode, feeds, optimise, used)
        out = found[self.graph.outputs[0]]
        notes["scale"] = self.judge.size_of(out)
        if len(self.plays) == 1:
            self.ask_for_forms(mode, feeds)
            self.closed = self.opened if self.opened and not self.lets_in(feeds) else []
        if self.lacking:
            notes["nodes"], notes["no_oracle"] = self.judge.nodes(self, mode, feeds, found), self.lacking
        self.settle(notes, plays, mode, feeds)
        found.update(feeds)
        self.remember(mode, found)
        return out

    def run(self, mode, feeds, optimise, used, taps, without=()):
        """{name: array} of one play; ``used`` asks for every output, else for the first alone."""
        session = self.session(mode, optimise, used, taps, without)
        names = [item.name for item in session.get_outputs()]
        wanted = names if used else [self.graph.outputs[0]]
        return dict(zip(wanted, session.run(wanted, feeds)))

    def refuse_outputs(self, found):
        """Maps, sequences and texts hold no numbers, and a layer without a channel axis has no channels."""
        first = self.graph.outputs[0]
        if not (isinstance(found[first], np.ndarray) and found[first].dtype.kind in "fiub"):
            raise NotImplementedError("the file's first output, %s, is no tensor of numbers" % first)
        for layer, norm in self.norms.items():
            out = found[norm.node.outputs[0]]
            if out.ndim < 2:
                raise NotImplementedError(
                    "the input of %s has the shape %s; bncheck looks at BatchNormalization from two axes on"
                    % (layer, list(out.shape))
                )

    def beside(self, notes, plays, name, mode, feeds, optimise, used):
        """Largest difference of another play to the recorded one, over all outputs that both have."""
        try:
            plays[name] = self.run(mode, feeds, optimise, used, False)
        except Exception as error:
            notes[name + "_refused"] = "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:300])
            return
        notes[name], statistics = self.judge.apart(self.compared(mode), plays[name], plays["recorded"])
        if used and self.statistics(mode):
            notes[name + "_statistics"] = statistics

    def lets_in(self, feeds):
        """Whether the file takes a batch as it lies there, its sizes of 0 not opened."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(self.path, options, providers=self.providers).run(None, feeds)
        except Exception as error:
            return "INVALID_ARGUMENT" not in str(error)
        return True

    def ask_for_forms(self, mode, feeds):
        """Whether the oracle lacks a form of an operator that it has in others."""
        if self.lacking or not any(node.kind in self.oracle.CHOOSY for node in self.graph.nodes):
            return
        ((_, x),) = feeds.items()
        try:
            self.judge.truth(self, mode, x)
        except NotImplementedError as error:
            self.lacking = str(error)

    def bounds(self, notes, mode):
        """(outputs, statistics): how far honest plays may be apart; the rules' onnx_files.py has the same."""
        kind = next((kind for kind, _ in self.graph.inputs.values()), "")
        factor = {"float16": 200.0, "float64": 1e-6}.get(kind, 1.0) * (1 if mode == "eval" else max(1, len(self.norms)))
        return factor * (1e-5 + 1e-4 * notes["scale"]), factor * 1.1e-4

    def settle(self, notes, plays, mode, feeds):
        """Where plays differ by more than rounding: which is right, and which optimiser it takes to be wrong."""
        judge, bounds = self.judge, self.bounds(notes, mode)

        def off(name):
            gaps = (notes.get(name, 0.0), notes.get(name + "_statistics", 0.0))
            return any(judge.value(gap) > bound for gap, bound in zip(gaps, bounds))

        wrong = [name for name in BESIDE if off(name)]
        if not wrong:
            return
        ((_, x),) = feeds.items()
        judge.hold(self, notes, mode, x, plays)
        again = self.run(mode, feeds, *BESIDE[wrong[0]], False)
        notes["second_run"] = judge.apart(self.compared(mode), again, plays[wrong[0]])[0]
        optimised = [name for name in wrong if BESIDE[name][0]]
        if not optimised:
            return
        if "off" not in notes:
            seen = self.run(mode, feeds, True, True, "nodes")
            notes["nodes"], notes["optimised_nodes"] = (
                judge.nodes(self, mode, feeds, play) for play in (plays["recorded"], seen)
            )

        plain = self.run(mode, feeds, False, True, True)
        if judge.value(judge.apart(self.compared(mode), plain, plays["recorded"])[0]) > bounds[0]:
            return  # two plain runs differ too: it draws at random, and no optimiser is to blame

        used = BESIDE[optimised[0]][1]

        def right(names):
            self.forget()
            try:
                play = self.run(mode, feeds, True, used, False, names)
            finally:
                self.forget()
            gaps = judge.apart(self.compared(mode), play, plays["recorded"])
            return all(judge.value(gap) <= bound for gap, bound in zip(gaps, bounds))

        candidates = judge.at_work(lambda severity: self.make(mode, True, False, (), severity))
        judge.find_optimiser(notes, candidates, right)

    def remember(self, mode, found):
        """Taps, and the statistics that training nodes put out."""
        self.seen, statistics = {}, self.statistics(mode)
        for layer, norm in self.norms.items():
            self.modes[layer] = self.training(norm, mode)
            given, out = norm.node.inputs[0], norm.node.outputs[0]
            self.seen[layer] = (found.get(given, self.graph.weights.get(given)), found[out])
        moved = [name for name in statistics if name in found]
        self.held.update((statistics[name], found[name]) for name in moved)
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
        found.update((what, self.held[layer, what]) for what in self.files.ROLES if (layer, what) in self.fixed)
        return found

    def facts(self):
        return {"file": dict(self.files.describe(self.graph), plays=self.plays, closed=self.closed)}
