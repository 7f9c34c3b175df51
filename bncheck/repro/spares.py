"""A file of the user's as part of a script that gives some names a meaning itself: without the statements on its top
level that define one of them and that nothing in question reads, such as the model that a file makes to try itself
out. Pure."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Collection

from bncheck.repro.standalone.subject import CannotWriteError

NET, THEIRS = "net", "theirs"  # what each script makes behind the file's text; what that text itself calls so


def copied(source: str, name: str, taken: Collection[str], kind: str) -> list[str]:
    """The user's code as it stands in the file, as lines of a script that gives the names of ``taken`` a meaning.
    ``kind`` is what ``name`` is or makes: a layer, a network, a model."""
    if not source:
        raise CannotWriteError(f"the file of the {kind} of your own is not here any more, or is no single Python file")
    text = without_spares(source, name, {*taken, THEIRS}, f"the {kind} of your own")
    return [
        f"# ---- the {kind} under test, copied from the file that the scenario names",
        *text.splitlines(),
        "# ---- until here",
        *([f"{THEIRS} = {name}"] if name == NET else []),
        "",
    ]


def called(name: str) -> str:
    """The script's name for what the file calls ``name``."""
    return THEIRS if name == NET else name


def is_made(source: str, name: str) -> bool:
    """Whether a name is a class or a function, as its ``def`` or ``class`` says: of anything else the script asks."""
    return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name for node in parsed(source))


def defined(source: str) -> set[str]:
    """What a file gives a meaning to on its top level, imports of the same thing aside."""
    return set[str]().union(*map(binds, parsed(source)))


def parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CannotWriteError(f"your own file is no valid Python: {type(error).__name__}") from error


def binds(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return set()


def without_spares(source: str, name: str, taken: Collection[str], what: str) -> str:
    """The source without what collides with ``taken`` and is not needed to make ``name``. CannotWriteError where it is
    needed; ``what`` says in words whose file it is."""
    nodes = parsed(source)
    both = defined(source) & set(taken)
    if not both:
        return source
    wanted = needed(nodes, name)
    kept = [node for node in nodes if binds(node) & wanted]
    clash = {each for node in kept for each in binds(node)} & set(taken)
    if name == NET and not any(NET in reads(node) for node in kept):
        clash -= {NET}  # it gets another name before the script takes this one
    if clash:
        raise CannotWriteError(f"the file of {what} defines {min(clash)}, which the script needs itself")
    spare, lost = set[int](), set(both)
    while True:
        more = [
            place
            for place, node in enumerate(nodes)
            if place not in spare and node not in kept and (binds(node) | reads(node)) & lost
        ]
        if not more:
            break
        spare |= set(more)
        lost |= {each for place in more for each in binds(nodes[place])}
    return cut(source, nodes, spare, what)


def needed(nodes: list[ast.stmt], name: str) -> set[str]:
    """Names on the top level that making ``name`` reads, itself among them."""
    found, waiting = {name}, [name]
    while waiting:
        here = waiting.pop()
        more = {each for node in nodes if here in binds(node) for each in reads(node)} - found
        found |= more
        waiting += more
    return found


def reads(node: ast.stmt) -> set[str]:
    """Names of the top level that a statement reads, in functions that it defines as well."""
    top = symtable.symtable(ast.unparse(node), "own", "exec")
    found = {each.get_name() for each in top.get_symbols() if each.is_referenced()}
    waiting = list(top.get_children())
    while waiting:
        table = waiting.pop()
        found |= {each.get_name() for each in table.get_symbols() if each.is_referenced() and each.is_global()}
        waiting += table.get_children()
    return found


def cut(source: str, nodes: list[ast.stmt], spare: Collection[int], what: str) -> str:
    gone = {line for place in spare for line in lines_of(nodes[place])}
    if any(place not in spare and gone & set(lines_of(node)) for place, node in enumerate(nodes)):
        raise CannotWriteError(f"the file of {what} has two statements in a line, of which the script can take one")
    return "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in gone)


def lines_of(node: ast.stmt) -> range:
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
    return range(first, (node.end_lineno or node.lineno) + 1)
