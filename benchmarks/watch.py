"""What `watch` finds, and what it costs.

    python benchmarks/watch.py                  # all three tables
    python benchmarks/watch.py --laws           # each law on correct scripts and on planted bugs
    python benchmarks/watch.py --gallery        # the projects of tests/gallery as scripts
    python benchmarks/watch.py --overhead       # seconds and memory, with watch and without
    python benchmarks/watch.py --jobs 4 --keep FOLDER --json FILE

Laws: "accepted" are correct scripts on which no law is called broken; "kept" are those of them in
which a law had something to judge. "Rejected" are scripts with a planted bug where its law is
called broken, and "located" those where the complaint is at most three lines from the fault.

Gallery: a mistake is named if a law that stands for it is called broken, and located if the line is
in one of its own functions or classes. A complaint is a law called broken in a correct project.

Overhead: wall seconds of the training steps, which the script measures itself, and of the whole
process; the largest memory of the process. Each is the least of several runs, in turns.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from results import write
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the scripts of the tests, which nobody installs
from tests import gallery
from tests.watch.mutations import BUGS, Mutant
from tests.watch.programs import KINDS, Program, sample
from tests.watch.running import Run, Runner
from tests.watch.scripts import controls, faults, laws_of, mistakes, script

Rows = list[dict[str, Any]]
SEED = 25

# ------------------------------------------------------------------------------ the laws


def planted(programs: list[Program], each: int) -> Iterator[Mutant]:
    """Yield each bug in some scripts: first those of rarer kinds, then composed ones."""
    generator = random.Random(SEED)
    for bug in BUGS:
        kinds = [mutant for p in KINDS.values() if (mutant := bug.plant(p))]
        composed = [mutant for p in programs if (mutant := bug.plant(p))]
        generator.shuffle(kinds)
        generator.shuffle(composed)
        yield from kinds[: each // 2] + composed[: each - min(len(kinds), each // 2)]


def ended(run: Run) -> bool:
    return run.status in (0, 3)


def laws(runner: Runner, folder: Path, programs: int, each: int, out: Console) -> Rows:
    """Judge correct scripts and scripts with bugs, and print a row a law."""
    correct = [*sample(programs, SEED), *KINDS.values()]
    judged = {p: runner.start(p.text, folder / "correct" / p.name) for p in correct}
    mutants = list(planted(sample(10 * programs, SEED + 1), each))
    watched = {
        mutant: runner.start(mutant.text, folder / "wrong" / mutant.bug.name / mutant.program)
        for mutant in mutants
    }

    accepted = 0
    kept, complained = Counter[str](), Counter[str]()
    for program, future in judged.items():
        run = future.result()
        found = {finding["law"]: finding for finding in run.broken()}
        accepted += ended(run) and not found
        kept.update(law for law, verdict in run.report.get("laws", {}).items() if verdict == "kept")
        complained.update(found)
        for law, finding in found.items():
            where = f"{folder}/correct/{program.name}/train.py:{finding['line']}"
            out.print(f"complaint  {law}  {where}  {finding['message']}", soft_wrap=True)
        if not ended(run):
            out.print(f"stopped    {folder}/correct/{program.name}/train.py", soft_wrap=True)

    rows = {
        law: {"law": law, "kept": kept[law], "complaints": complained[law]}
        | dict.fromkeys(("bugs", "rejected", "located"), 0)
        for law in dict.fromkeys(bug.law for bug in BUGS)
    }
    for mutant, future in watched.items():
        run, row = future.result(), rows[mutant.bug.law]
        hits = [f for f in run.broken() if f["law"] in {mutant.bug.law, *mutant.bug.also}]
        located = any(mutant.near(finding["line"]) for finding in hits)
        row["bugs"] += 1
        row["rejected"] += bool(hits)
        row["located"] += located
        if not located:
            said = [f"{f['law']}:{f['line']} ({f['verdict']})" for f in run.findings()]
            verdict = "elsewhere" if hits else "missed" if ended(run) else "stopped"
            where = f"{folder}/wrong/{mutant.bug.name}/{mutant.program}/train.py"
            wanted = ",".join(map(str, sorted(mutant.lines)))
            out.print(f"{verdict:10} {mutant.bug.law}  {mutant.bug.name}  {where}:{wanted}  {said}",
                      soft_wrap=True)  # fmt: skip

    table = Table(title=f"{accepted} of {len(correct)} correct scripts accepted")
    for column in ("law", "kept", "complaints", "bugs", "rejected", "located"):
        table.add_column(column, justify="left" if column == "law" else "right")
    total = {"law": "all", "kept": accepted, "complaints": len(correct) - accepted}
    total |= {key: sum(r[key] for r in rows.values()) for key in ("bugs", "rejected", "located")}
    for row in [*rows.values(), total]:
        table.add_row(*map(str, row.values()), end_section=row["law"] == "the-loss-is-finite")
    out.print(table)
    return [*rows.values(), total]


# ---------------------------------------------------------------------------- the gallery


def of_gallery(runner: Runner, folder: Path, out: Console) -> Rows:
    """Watch each project of the gallery as a script, and print how many mistakes are named."""
    runs: dict[gallery.Mistake, Future[Run]] = {
        m: runner.start(script(m.wrong, m.check), folder / "gallery" / m.name, root=ROOT)
        for m in mistakes()
    }
    correct = {
        name: runner.start(script(make), folder / "gallery" / f"correct-{name}", root=ROOT)
        for name, make in controls().items()
    }
    rows: Rows = []
    for mistake, future in runs.items():
        run = future.result()
        hits = [finding for finding in run.broken() if finding["law"] in laws_of(mistake)]
        lines = faults(mistake)
        located = any(finding["line"] in lines.get(finding["file"], ()) for finding in hits)
        said = [f"{f['law']} {Path(f['file']).name}:{f['line']}" for f in run.findings()]
        rows.append({"mistake": mistake.name, "named": bool(hits), "located": located})
        if not located:
            verdict = "elsewhere" if hits else "missed" if ended(run) else "stopped"
            out.print(f"{verdict:10} {mistake.check}  {mistake.name}  {said}", soft_wrap=True)
    complaints = 0
    for name, future in correct.items():
        run = future.result()
        complaints += bool(run.broken()) or not ended(run)
        for f in run.broken():
            where = f"{Path(f['file']).name}:{f['line']}"
            out.print(f"complaint  {f['law']}  {name}  {where}  {f['message']}", soft_wrap=True)
        if not ended(run):
            out.print(f"stopped    {name}: {run.errors.splitlines()[-1:]}", soft_wrap=True)
    named, located = (sum(row[key] for row in rows) for key in ("named", "located"))
    out.print(
        f"gallery: {named} of {len(rows)} mistakes named, {located} located; "
        f"complaints on {complaints} of {len(correct)} correct projects"
    )
    summary = {"mistake": "all", "named": named, "located": located, "complaints": complaints}
    return [*rows, summary]


# --------------------------------------------------------------------------- the overhead

TRAINING = '''
"""{title}"""
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
{model}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(data, batch_size={batch}, shuffle=True)
started = time.perf_counter()
for epoch in range({epochs}):
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    model.eval()
    with torch.no_grad():
        test_loss = F.cross_entropy(model(test_x).flatten(0, -2), test_y.flatten()).item()
print("seconds", time.perf_counter() - started)
'''
RESNET = """
from torchvision.models import resnet18

model = resnet18(num_classes=10)
data = TensorDataset(torch.randn(320, 3, 64, 64), torch.randint(10, (320,)))
test_x, test_y = torch.randn(16, 3, 64, 64), torch.randint(10, (16,))
"""
GPT = """

class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(65, 128), nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 65)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.layers(x, mask=mask, is_causal=True))


model = GPT()
codes = torch.randint(65, (1088, 65))
data = TensorDataset(codes[:1024, :-1], codes[:1024, 1:])
test_x, test_y = codes[1024:, :-1], codes[1024:, 1:]
"""
MLP = """
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
data = TensorDataset(torch.randn(12_800, 784), torch.randint(10, (12_800,)))
test_x, test_y = torch.randn(1000, 784), torch.randint(10, (1000,))
"""
SIZES = {
    "ResNet-18, 64 px, batches of 16": (RESNET, 16, 2),
    "GPT, 4 layers of 128, 64 tokens": (GPT, 16, 2),
    "MLP, batches of 64": (MLP, 64, 8),
}


def measured(path: Path, watched: bool, root: Path) -> tuple[float, float, float]:
    """Return the seconds of training and of the process, and its largest memory in MiB."""
    watching = ["-m", "dlconcepts", "watch"] if watched else []
    output = path.with_suffix(".txt")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *watching, str(path)], cwd=root, env=env, stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - started
    text = output.read_text()
    if process.returncode not in (0, 3):
        raise SystemExit(f"{path} stopped:\n{text}")
    said = [line.split()[1] for line in text.splitlines() if line.startswith("seconds ")]
    return float(said[0]) if said else whole, whole, usage.ru_maxrss / 1024


def overhead(folder: Path, rounds: int, projects: int, out: Console) -> Rows:
    """Run scripts with and without watch, in turns, and print the ratios."""
    scripts: dict[str, tuple[str, Path]] = {}
    for title, (model, batch, epochs) in SIZES.items():
        text = TRAINING.format(title=title, model=model, batch=batch, epochs=epochs).lstrip()
        scripts[title] = text, folder
    for name, make in list(controls().items())[:: max(1, len(controls()) // projects)][:projects]:
        scripts[f"gallery: {name}"] = script(make), ROOT
    rows: Rows = []
    columns = ("script", "training s", "watched", "ratio", "process ratio", "MiB", "more MiB")
    table = Table(*columns, title="least of each, in turns")
    for number, (title, (text, root)) in enumerate(scripts.items()):
        path = folder / f"overhead_{number}.py"
        path.write_text(text, encoding="utf-8")
        runs: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for _ in range(rounds):
            for watched in runs:
                runs[watched].append(measured(path, watched, root))
        plain, seen = (tuple(map(min, zip(*runs[w], strict=True))) for w in (False, True))
        row = {
            "script": title,
            "seconds": round(plain[0], 3),
            "watched": round(seen[0], 3),
            "ratio": round(seen[0] / plain[0], 3),
            "process": round(seen[1] / plain[1], 3),
            "memory": round(plain[2]),
            "more": round(seen[2] - plain[2]),
        }
        rows.append(row)
        table.add_row(*map(str, row.values()))
    out.print(table)
    ratios = [row["ratio"] for row in rows]
    out.print(f"ratio: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--laws", action="store_true", help="correct scripts and planted bugs")
    parser.add_argument("--gallery", action="store_true", help="the gallery as scripts")
    parser.add_argument("--overhead", action="store_true", help="seconds and memory")
    parser.add_argument("--programs", type=int, default=100, help="composed correct scripts")
    parser.add_argument("--each", type=int, default=4, help="number of scripts for each bug")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each script, for overhead")
    parser.add_argument("--projects", type=int, default=6, help="of the gallery, for overhead")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder for the scripts and reports")
    parser.add_argument("--json", type=Path, help="write the rows to a file, too")
    arguments = parser.parse_args()
    chosen = {name for name in ("laws", "gallery", "overhead") if getattr(arguments, name)}
    chosen = chosen or {"laws", "gallery", "overhead"}
    out = Console(width=120)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        runner, found = Runner(arguments.jobs), {}
        if "laws" in chosen:
            found["laws"] = laws(runner, folder, arguments.programs, arguments.each, out)
        if "gallery" in chosen:
            found["gallery"] = of_gallery(runner, folder, out)
        runner.close()
        if "overhead" in chosen:
            found["overhead"] = overhead(folder, arguments.rounds, arguments.projects, out)
    if arguments.json:
        rows = [{"table": name, **row} for name, table in found.items() for row in table]
        write(arguments.json, rows, ("torch", "numpy"))


if __name__ == "__main__":
    main()
