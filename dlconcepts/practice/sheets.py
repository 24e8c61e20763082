"""Practice files: what a learner gets for each lesson, and what a learner has written."""

import ast
import builtins
import doctest
import hashlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from dlconcepts.practice.techniques import Law, Technique
from dlconcepts.testing.claims import Definition, constants_of, definitions, parsed

HEADER = '''"""Practice, lesson {number}: {lesson}. Replace each NotImplementedError with your code.

    python -m dlconcepts practice --check FOLDER [--watch] [--hint]

checks it against the laws of the course. Until you write a technique, calls to it run the library's
version, so you can start with any of them. Add imports and functions as you like.
"""

'''
WIDTH = 100
EXAMPLES = doctest.DocTestParser()
REFUSED = re.compile("DID NOT RAISE|Regex pattern|Unexpected")  # what pytest.raises says


def sheet(number: int, lesson: str, techniques: Sequence[Technique]) -> str:
    """Return the practice file of a lesson: imports, and techniques without their bodies."""
    head = HEADER.format(number=number, lesson=lesson) + imports(techniques) + "\n"
    return "\n\n".join([head, *map(skeleton, techniques)])


def imports(techniques: Sequence[Technique]) -> str:
    """Return the imports that some techniques and their docstrings need."""
    names = {technique.name for technique in techniques}
    found: dict[str, set[str]] = {}
    for technique in techniques:
        for start, name in imports_of(technique, names_in(technique.node) - names):
            found.setdefault(start, set()).add(name)
    lines = [joined(start, sorted(names)) for start, names in found.items()]
    # `from __future__` must come first; our own imports come last, as usual.
    lines.sort(key=lambda line: ("__future__" not in line, "from dlconcepts" in line, line))
    return "\n".join(lines)


def joined(start: str, names: Sequence[str]) -> str:
    line = start + ", ".join(names)
    return line if len(line) <= WIDTH else start + "(\n    " + ",\n    ".join(names) + ",\n)"


def names_in(node: Definition) -> set[str]:
    """Return the names that a definition and the examples in its docstrings use."""
    trees: list[ast.AST] = [node]
    for part in ast.walk(node):
        if isinstance(part, Definition):
            examples = EXAMPLES.get_examples(ast.get_docstring(part) or "")
            trees += [ast.parse(example.source) for example in examples]
    found = {name.id for tree in trees for name in ast.walk(tree) if isinstance(name, ast.Name)}
    return found - set(dir(builtins))


def imports_of(technique: Technique, names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the imports that bring names of a technique's module to another file."""
    for node in parsed(technique.path).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) in names or node.module == "__future__":
                    yield f"from {node.module} import ", ast.unparse(alias)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if bound_by(alias) & names:
                    yield f"import {ast.unparse(alias)}", ""
        else:
            for name in bound_by(node) & names:
                yield f"from {technique.module} import ", name


def bound_by(node: ast.AST) -> set[str]:
    """Return the names that a statement at the top of a file binds, outside comprehensions."""
    if isinstance(node, Definition):
        return {node.name}
    if isinstance(node, ast.alias):
        return {node.asname or node.name.partition(".")[0]}
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return set()
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(bound_by, ast.iter_child_nodes(node)))


def judged(technique: Technique) -> str:
    """Return all that the laws of a technique judge, as a list for its docstring."""
    items = []
    for law in technique.laws:
        reasons = list(dict.fromkeys(filter(None, reasons_of(law))))
        # What a helper says, or a message with values, as it is for a mistake.
        reasons += [
            reason
            for reason in dict.fromkeys(law.wrong.values())
            if not REFUSED.match(reason) and not any(reason in other for other in reasons)
        ]
        text = f"- {law.sentence}" + (f" ({'; '.join(reasons)})" if reasons else "")
        items += textwrap.wrap(text, WIDTH - 4, subsequent_indent="  ")
    return "\n".join(["Judged:", "", *items])


def reasons_of(law: Law) -> Iterator[str]:
    """Yield what the assertions of a law, and of the helpers it calls, say."""
    trees = law.claim.trees
    helpers = {name: node for tree in trees for name, node in definitions(tree).items()}
    texts = {name: node for tree in trees for name, node in constants_of(tree).items()}
    node = helpers[law.name]
    names = [part.func.id for part in ast.walk(node) if is_call_of_name(part)]
    for each in [node, *(helpers[name] for name in names if name in helpers)]:
        yield from reasons_in(each, texts | constants_of(each))


def is_call_of_name(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def reasons_in(function: Definition, texts: Mapping[str, ast.expr]) -> Iterator[str]:
    """Yield what the assertions in a function say, and which errors it waits for."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and node.msg is not None:
            yield text_of(node.msg, texts)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "pytest.raises" and re.fullmatch("[A-Z].*", ast.unparse(node.args[0])):
                yield f"it raises {ast.unparse(node.args[0])}, in any wording"
            elif name.endswith(("assert_close", "fail")):
                words = [*node.args, *(word.value for word in node.keywords if word.arg == "msg")]
                yield from (text_of(word, texts) for word in words)


def text_of(node: ast.AST, texts: Mapping[str, ast.expr]) -> str:
    """Return a text in the code, with "..." for each value in it; nothing if it is no text."""
    if isinstance(node, ast.Name) and node.id in texts:
        return text_of(texts[node.id], {})
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, texts) or "..." for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value, texts)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def documented(technique: Technique, node: Definition) -> str:
    """Return the lines of a technique from its first one down to the end of its docstring."""
    lines = technique.source(node, node.body[0].end_lineno).rstrip().removesuffix('"""').rstrip()
    own = textwrap.indent(judged(technique), "    ", lambda line: bool(line.strip()))
    return f'{lines}\n\n{own}\n    """\n'


def skeleton(technique: Technique) -> str:
    """Return a technique's source with each body replaced by an error that says what to write."""
    node = technique.node
    parts, methods = [], [node]
    if isinstance(node, ast.ClassDef):
        parts.append(documented(technique, node))
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    for function in methods:
        if function.name.endswith("__") or not function.name.startswith("_"):
            name = node.name if function is node else f"{node.name}.{function.name}"
            error = f'raise NotImplementedError("write {name}")\n'
            indented = " " * (function.col_offset + 4) + error
            if function is node:
                parts.append(documented(technique, node) + indented)
            else:
                parts.append(technique.source(function, function.body[0].end_lineno) + indented)
    return "\n".join(parts)


def reset(text: str, technique: Technique) -> str:
    """Return a learner's file with the empty exercise in place of what defines a technique."""
    nodes = [node for node in ast.parse(text).body if technique.name in bound_by(node)]
    lines = text.splitlines(keepends=True)
    for node in reversed(nodes):
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        new = skeleton(technique) if node is nodes[0] else ""
        lines[first - 1 : node.end_lineno] = [new]
    return "".join(lines)


def is_written(node: Definition) -> bool:
    """Return whether some body of a technique does more than raise NotImplementedError."""
    bodies = [part.body for part in ast.walk(node) if isinstance(part, ast.FunctionDef)]
    # A docstring may stand before the error.
    last = [ast.unparse(body[-1]) for body in bodies if len(body) <= 2]
    stubs = [line for line in last if line.startswith("raise NotImplementedError")]
    return len(stubs) < max(1, len(bodies))


def fingerprint(tree: ast.Module, technique: Technique) -> str:
    """Return a hash of all that a verdict on a technique depends on.

    That is its source in the learner's file, what it uses of that file, and the files of its laws.
    """
    known = {name: node for node in tree.body for name in bound_by(node)}
    waiting, needed = [technique.name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in known and name not in needed:
            needed.add(name)
            waiting += [part.id for part in ast.walk(known[name]) if isinstance(part, ast.Name)]
    digest = hashlib.sha256()
    for name in sorted(needed):
        digest.update(ast.unparse(known[name]).encode())
    claims = {law.claim.path for law in technique.laws}
    for path in sorted(claims | {claim.with_name("common.py") for claim in claims}):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]
