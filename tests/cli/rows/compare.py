"""`compare`."""

from pathlib import Path

from tests.cli.rows import Given, Row
from tests.cli.rows.given import setting, text

NAMED = '<property name="claim" value="networks.relu"/><property name="kind" value="right"/>'
CASE = '<testcase classname="tests.networks.test_relu" name="test_{}[cpu-relu]" time="0.1">{}'
CASE += f"<properties>{NAMED}</properties></testcase>"
FACTS = '<properties><property name="torch" value="{}"/></properties>'


def a_run(name: str, law: str = "law", version: str = "2.14.1", fault: str = "") -> Given:
    """A run of one law."""
    content = FACTS.format(version) + CASE.format(law, fault)
    return text(name, f"<testsuite>{content}</testsuite>")


a, b = a_run("a.xml"), a_run("b.xml")
recorded = setting("dlconcepts.testing.records.RESULTS", Path("recorded"))


def refused(content: str, says: str) -> Row:
    return Row("compare a.xml b.xml", 2, says, [a, text("b.xml", content)])


ROWS = [
    Row("compare a.xml b.xml", 0, given=[a, b], out="differences: none"),
    Row("compare a.xml b.xml --json", 0, given=[a, b], out='"worse": 0'),
    Row("compare a.xml b.xml --markdown", 0, given=[a, b], out="- A: a.xml"),
    Row("compare a.xml b.xml", 141, given=[a, b], to="closed pipe"),
    Row("compare a.xml b.xml", 2, "No space left on device", [a, b], to="full disk"),
    Row(
        "compare a.xml b.xml",
        1,
        given=[a, a_run("b.xml", fault='<failure message="AssertionError: no"/>')],
        out="(worse)",
    ),
    Row("compare a.xml absent.xml", 2, "cannot read absent.xml", [a]),
    Row("compare . a.xml", 2, "cannot read results.xml", [a]),
    Row("compare a.xml c.xml", 2, "no law in common", [a, a_run("c.xml", "other")]),
    refused("", "b.xml is truncated or not XML"),
    refused("<testsuite><testcase", "b.xml is truncated or not XML"),
    refused("<html/>", "b.xml is no run of the laws"),
    refused("<testsuite><testcase/></testsuite>", "b.xml is no run of the laws"),
    refused('<testsuite like="c.xml" digest="0"/>', "cannot read c.xml"),
    refused('<testsuite like="a.xml" digest="0"/>', "b.xml was recorded against another a.xml"),
    Row("compare 2.7 a.xml", 2, "no run of torch 2.7 on cpu is recorded", [a, recorded]),
    Row("compare a.xml", 2, "no run of torch 2.14.1 on cpu is recorded", [a, recorded]),
    Row("compare a.xml", 2, "does not name its version", [a_run("a.xml", version="")]),
]
