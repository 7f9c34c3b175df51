"""The user's own layers in a whole network that ``run`` has played, each taken out and played by itself (alone.py), as
``check`` does with a model.

Loaded by run.py by path; Python 3.7 syntax. ``model`` is a backend's model of a whole network: one of PyTorch says
itself which of its layers can be played (torch_side/whole.py), others have ``hands`` as own_side/model.py asks.
"""


def play(part, model, shapes, ops):
    """({"layers": {name: {"kind", "own"}}, "alone": what alone.py says, "shown": sentences}, arrays). ``part(folder,
    name)`` is a file of the worker, ``shapes`` those of the layers' inputs; a layer that has none did not run. Of a
    layer may also be said that its ``calls`` could not be counted (0), and the ``dtype`` of its output."""
    taken = taken_out(part, model, shapes)
    if taken is None:
        return {}, {}
    target, variants, layers, found, shown = taken
    said, arrays = part("own_side", "alone").play(part, target, variants, found, ops) if found else ([], {})
    return {"layers": layers, "alone": said, "shown": shown}, arrays


def taken_out(part, model, shapes):
    """(its framework's target, variants of a layer of the user's and of the built-in one, what each layer is, {name:
    (layer, its facts)} of those that can be played, sentences about what layers showed); None where a backend shows no
    layers."""
    if hasattr(model, "taken_out"):
        return model.taken_out(shapes)
    if not hasattr(model, "hands"):
        return None
    shared, whole = part("own_side", "layer"), part("own_side", "model")
    getattr(model, "untap", lambda: None)()
    told = {name: whole.describe(model, name) for name in model.norms}
    facts = {name: whole.facts(shared, model, name, shapes) for name, each in told.items() if each["own"]}
    found = {name: (model.norms[name], each) for name, each in facts.items() if isinstance(each, dict)}
    layers = {name: {"kind": each["kind"], "own": each["own"]} for name, each in told.items()}
    for name, each in layers.items():
        each["made"] = made(shared, whole, model, name)
    for name in [name for name in facts if name not in found]:
        layers[name]["why"] = facts[name]
    shown = part("own_side", "unusual").taken(shared, model.norms)
    return model.hands.target, model.variants, layers, found, shown


def made(shared, whole, model, name):
    """What a script needs to reach a layer and its state: ``names`` are attributes of the layer itself."""
    layer, hands = model.norms[name], model.hands
    plain = [what for what in whole.HELD if whole.power_of(shared.attribute(hands, layer, what)) == 1]
    names = {what: shared.name_of(hands, layer, what) for what in plain}
    where = getattr(model, "place", str)(name)
    return {
        "names": {what: each for what, each in names.items() if each},
        "flags": hands.called(model.root()),
        "place": where,
    }
