"""Practice files: what a learner is given of each lesson, and what a learner has written."""

import ast
import builtins
import doctest
import hashlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dlconcepts.practice.techniques import (
    TESTS,
    Definition,
    Technique,
    definitions,
    first_line,
    parsed,
    segment,
    source_of,
)

WIDTH = 100
HEADER = '''"""Practice, lesson {number}: {lesson}. Write what raises NotImplementedError.

    python -m dlconcepts practice --check FOLDER [--watch] [--hint]

judges it by the laws of the course. What you have not written yet is the library's meanwhile, so
one technique may call another. You may add imports and functions of your own.
"""

'''


def sheet(number: int, lesson: str, techniques: Sequence[Technique]) -> str:
    """Return the practice file of a lesson: imports, and techniques without their bodies."""
    here = {technique.name for technique in techniques}
    imports: dict[str, None] = {}
    for technique in techniques:
        names = names_in(technique.node) - here
        imports.update(dict.fromkeys(imports_for(technique.module, names)))
    head = HEADER.format(number=number, lesson=lesson) + "\n".join(in_order(imports))
    return "\n\n".join([head, *(skeleton(technique) + "\n" for technique in techniques)])


def skeleton(technique: Technique) -> str:
    """Return a technique's source with each body replaced by an error that says what to write."""
    source, node = source_of(technique.module), technique.node
    if isinstance(node, ast.FunctionDef):
        return without_body(source, node, node.name)
    parts = [head(source, node)]
    for statement in node.body[1:]:
        if isinstance(statement, ast.FunctionDef) and not is_private(statement.name):
            parts.append(without_body(source, statement, f"{node.name}.{statement.name}"))
    return "\n".join(parts)


def is_private(name: str) -> bool:
    """Return whether a method is nobody's business: one underscore in front, like _this."""
    return name.startswith("_") and not name.endswith("__")


def without_body(source: str, function: ast.FunctionDef, name: str) -> str:
    """Return a function's decorators, signature and docstring, and an error for a body."""
    indent = " " * (function.col_offset + 4)
    return f'{head(source, function)}{indent}raise NotImplementedError("write {name}")\n'


def head(source: str, node: Definition) -> str:
    """Return all of a definition down to the end of its docstring."""
    lines = source.splitlines()[first_line(node) - 1 : node.body[0].end_lineno]
    return "\n".join(lines) + "\n"


def names_in(node: Definition) -> set[str]:
    """Return the names that a definition and the examples of its docstring use."""
    trees: list[ast.AST] = [node]
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(part) or ""
            trees += [ast.parse(example.source) for example in EXAMPLES.get_examples(text)]
    found = {name.id for tree in trees for name in ast.walk(tree) if isinstance(name, ast.Name)}
    return found - set(dir(builtins))


EXAMPLES = doctest.DocTestParser()


def imports_for(module: str, names: set[str]) -> Iterator[str]:
    """Yield the import statements that bring names of a module to another file."""
    tree, own = parsed(source_of(module)), set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if name in names or getattr(node, "module", "") == "__future__":
                    start = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                    renamed = f" as {alias.asname}" if alias.asname else ""
                    yield f"{start}import {alias.name}{renamed}"
        else:
            own |= bound_by(node)
    for name in own & names:
        yield f"from {module} import {name}"


def in_order(imports: Iterable[str]) -> Iterator[str]:
    """Join the imports of each module, and yield them sorted: Python's future, then ours last."""
    joined: dict[str, set[str]] = {}
    for line in imports:
        start, _, names = line.rpartition("import ")
        joined.setdefault(start or line, set()).update([names] if start else [])
    ours = [start for start in joined if start.startswith("from dlconcepts")]
    plain = [start for start in joined if start.startswith("import ")]
    others = sorted(joined.keys() - {*ours, *plain})
    future = [start for start in others if "__future__" in start]
    rest = sorted(plain) + [start for start in others if start not in future]
    for group in (future, rest, sorted(ours)):
        yield from (f"{start}{one_line(joined[start], start)}" for start in group)
        yield from [""] * bool(group)


def one_line(names: set[str], start: str) -> str:
    """Return what stands behind the name of a module, folded where the line grows too long."""
    if not names:
        return ""
    line = f"import {', '.join(sorted(names))}"
    if len(start) + len(line) <= WIDTH:
        return line
    folded = textwrap.indent("".join(f"{name},\n" for name in sorted(names)), "    ")
    return f"import (\n{folded})"


def is_unwritten(node: Definition) -> bool:
    """Return whether nothing of a technique has been written: each body only raises."""
    functions = [node] if isinstance(node, ast.FunctionDef) else node.body
    bodies = [part.body for part in functions if isinstance(part, ast.FunctionDef)]
    return bool(bodies) and all(only_raises(body) for body in bodies)


def only_raises(body: Sequence[ast.stmt]) -> bool:
    """Return whether a body, but for its docstring, is `raise NotImplementedError(...)`."""
    statements = [part for part in body if not is_text(part)]
    if len(statements) != 1 or not isinstance(statements[0], ast.Raise):
        return False
    error = statements[0].exc
    error = error.func if isinstance(error, ast.Call) else error
    return isinstance(error, ast.Name) and error.id == "NotImplementedError"


def is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def fingerprint(text: str, technique: Technique) -> str:
    """Return a hash of all that a verdict on a technique depends on.

    That is its source in the learner's file, whatever it uses of that file, and its laws' files.
    """
    tree = parsed(text)
    known = {name: node for node in tree.body for name in bound_by(node)}
    waiting, needed = [technique.name], dict[str, None]()
    while waiting:
        name = waiting.pop()
        if name in known and name not in needed:
            needed[name] = None
            waiting += sorted({n.id for n in ast.walk(known[name]) if isinstance(n, ast.Name)})
    digest = hashlib.sha256()
    for name in sorted(needed):
        digest.update(ast.unparse(known[name]).encode())
    for file in sorted({law.file for law in technique.laws}):
        digest.update((TESTS / file).read_bytes())
    return digest.hexdigest()[:16]


def bound_by(node: ast.AST) -> set[str]:
    """Return the names that a statement at the top of a file binds, outside comprehensions."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return set()
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(bound_by, ast.iter_child_nodes(node)))


def written(path: Path, techniques: Iterable[Technique]) -> dict[str, bool]:
    """Return for each technique that a practice file still defines whether it has been written."""
    found = definitions(parsed(path.read_text(encoding="utf-8")))
    return {
        technique.name: not is_unwritten(found[technique.name])
        for technique in techniques
        if technique.name in found
    }


def solved(text: str, techniques: Iterable[Technique]) -> str:
    """Return a practice file with the library's own source in the place of some techniques."""
    for technique in techniques:
        node = definitions(ast.parse(text))[technique.name]
        text = text.replace(segment(text, node), technique.solution)
    return text
