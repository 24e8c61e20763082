"""Answers to the exercises of `practice`, right and wrong, as learners write them.

An answer to NAME is a function or class `NAME__how_it_is_written` in `right/LESSON.py` or
`wrong/LESSON.py`. Its docstring says how it differs, or what is wrong with it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlconcepts.practice.question import Question
from dlconcepts.practice.techniques import Technique, survey

HERE = Path(__file__).parent
LIMIT = 60.0  # seconds for one example: only an answer that never ends needs them
TECHNIQUES = {technique.name: technique for technique in survey()[0]}


@dataclass(frozen=True)
class Answer:
    """An answer to an exercise."""

    kind: str
    technique: Technique
    name: str
    sentence: str
    source: Path

    def question(self, folder: Path) -> Question:
        """Write the answer as a learner's file, and return what to judge."""
        lesson = self.technique.lesson
        path = folder / self.kind / self.name / f"{lesson}.py"
        path.parent.mkdir(parents=True)
        text = self.source.read_text(encoding="utf-8")
        path.write_text(f"{text}\n\n{self.technique.name} = {self.name}\n", encoding="utf-8")
        others = (each for each in TECHNIQUES.values() if each.lesson == lesson)
        unwritten = {each.name: each.module for each in others if each is not self.technique}
        return Question(self.technique, path, unwritten, LIMIT)


def answers(kind: str, folder: Path = HERE) -> Iterator[Answer]:
    """Yield the right answers, or the wrong ones, in the order of their files."""
    for path in sorted(folder.joinpath(kind).glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                technique = TECHNIQUES[node.name.partition("__")[0]]
                sentence = " ".join((ast.get_docstring(node) or "").split())
                yield Answer(kind, technique, node.name, sentence, path)
