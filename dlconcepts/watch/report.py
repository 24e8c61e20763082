"""What watching found: as text, JSON, JUnit XML and SARIF."""

import json
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dlconcepts
from dlconcepts.checks.report import Result, junit
from dlconcepts.watch.places import Place

WIDTH = 96
SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass
class Finding:
    """A law that a line breaks, or may break: `verdict` is "broken", with a proof, or "note"."""

    law: str
    verdict: str
    file: str
    line: int
    message: str
    proof: str
    count: int = 0


@dataclass
class Report:
    """What a run did: its findings, and for each law "kept", "broken" or "not seen".

    `lessons` has what each law says about itself: its claim, concept, why and fix.

    >>> report = Report([], {"the-loss-is-finite": "kept"}, steps=3)
    >>> report.ok, report.summary()
    (True, 'watch: 3 steps; 1 law kept, 0 broken, 0 not seen')
    """

    findings: list[Finding] = field(default_factory=list)
    laws: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    overhead: float = 1.0
    errors: list[str] = field(default_factory=list)
    lessons: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == "broken"]

    @property
    def ok(self) -> bool:
        """Whether no law was broken."""
        return not self.broken

    def raise_for_findings(self) -> None:
        """Raise AssertionError, with the whole report, if a law was broken."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def summary(self) -> str:
        """Return how many laws were kept, broken and not seen."""
        counts, notes = Counter(self.laws.values()), len(self.findings) - len(self.broken)
        steps = many(self.steps, "step") if self.steps else "no optimizer step was seen"
        said = [f"{many(counts['kept'], 'law')} kept", f"{counts['broken']} broken"]
        said += [f"{counts['not seen']} not seen", *([many(notes, "note")] if notes else [])]
        return f"watch: {steps}; {', '.join(said)}"

    def __str__(self) -> str:
        lines: list[str] = []
        for found in sorted(self.findings, key=lambda f: (f.verdict != "broken", f.file, f.line)):
            lines += [*described(found, self.lessons[found.law]), ""]
        lines += [f"could not be judged: {error}" for error in self.errors]
        return "\n".join([*lines, self.summary()])

    def to_json(self) -> str:
        """Return the report as JSON of schema 1."""
        parts = ("findings", "laws", "steps", "seconds", "overhead")
        findings = [asdict(finding) for finding in self.findings]
        content = {part: getattr(self, part) for part in parts}
        return json.dumps({"schema": 1, **content, "findings": findings}, indent=2) + "\n"

    def to_junit(self) -> str:
        """Return the report as JUnit XML, a test case a law; what was not seen is skipped."""
        results = []
        for law, verdict in self.laws.items():
            about = self.lessons[law]
            found = [described(finding, about) for finding in self.broken if finding.law == law]
            details = "\n".join(line for lines in found for line in lines)
            details = details or "nothing in the run could break it"
            status = {"kept": "passed", "broken": "FAILED"}.get(verdict, verdict)
            result = Result(law, status, details, about.concept, about.claim, passes=0, seconds=0.0)
            results.append(result)
        return junit("dlconcepts.watch", results)

    def to_sarif(self) -> str:
        """Return the report as SARIF 2.1.0, which code hosts show at the lines."""
        rules, results = {}, []
        for finding in self.findings:
            concept = {"text": self.lessons[finding.law].concept}
            rules[finding.law] = {"id": finding.law, "shortDescription": concept}
            artifact = {"uri": relative(finding.file).as_posix()}
            region = {"startLine": max(finding.line, 1)}
            place = {"physicalLocation": {"artifactLocation": artifact, "region": region}}
            level = "error" if finding.verdict == "broken" else "note"
            message = {"text": ". ".join(filter(None, (finding.message, finding.proof)))}
            result = {"ruleId": finding.law, "level": level, "message": message}
            results.append({**result, "locations": [place]})
        tool = {"name": "dlconcepts", "version": dlconcepts.__version__}
        run = {"tool": {"driver": {**tool, "rules": list(rules.values())}}, "results": results}
        return json.dumps({"$schema": SARIF, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def relative(file: str) -> Path:
    path = Path(file)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def described(finding: Finding, about: Any, width: int = WIDTH) -> list[str]:
    """Return the lines that a person reads about a finding."""
    verdict = "BROKEN" if finding.verdict == "broken" else "note"
    times = f" ({finding.count} times)" if finding.count > 1 else ""
    head = f"{verdict:7} {finding.law}  {relative(finding.file)}:{finding.line}"
    lines = [f"{head}  {Place(finding.file, finding.line).code}".rstrip()]
    parts = {"observed": finding.message + times, "proof": finding.proof, "why": about.why}
    for name, text in {**parts, "fix": about.fix, "claim": about.claim}.items():
        if text:
            first = f"    {name:10} "
            lines += textwrap.wrap(first + text, width, subsequent_indent=" " * 15)
    return lines
