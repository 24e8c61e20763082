"""What the tests of practice share: a learner's files, and their judging."""

from dlconcepts.__main__ import main
from dlconcepts.practice import check as checking
from dlconcepts.practice.sheets import skeleton
from dlconcepts.practice.techniques import survey

TECHNIQUES, OTHER_LAWS = survey()
BY_NAME = {technique.name: technique for technique in TECHNIQUES}


def write(folder, lesson, bodies=None, after=""):
    """Write the practice file of a lesson, in which some functions have a body."""
    assert main(["practice", lesson, "--out", str(folder)]) == 0
    path = folder / f"{lesson}.py"
    text = path.read_text()
    for name, body in (bodies or {}).items():
        unwritten = f'raise NotImplementedError("write {name}")'
        assert unwritten in text, name
        text = text.replace(unwritten, body)
    path.write_text(f"{text}\n\n{after}")
    return path


def solve(path, lesson):
    """Replace each technique in a practice file with the library's solution."""
    text = path.read_text()
    for technique in TECHNIQUES:
        if technique.lesson == lesson:
            assert skeleton(technique) in text
            text = text.replace(skeleton(technique), technique.solution)
    path.write_text(text)


def check(folder, lessons):
    """Return the outcomes of a folder by the names of the techniques."""
    own = [technique for technique in TECHNIQUES if technique.lesson in lessons]
    # The endless loop takes all of the limit; an example of the others takes milliseconds.
    outcomes = checking.check(folder, own, limit=4)
    return {outcome.technique.name: outcome for outcome in outcomes}
