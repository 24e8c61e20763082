"""Measure what a checksum costs and catches, compared with torch.save and safetensors.

    pip install -e ".[bench]"
    python benchmarks/checkpoints.py

The first table times saving and loading a state of 100 MB: median and minimum of the rounds, with
the peers interleaved. Each load runs in a new process, as in real use, and ends with the values in
the parameters of a model. The second table times each checksum in Python's standard library. The
third damages a checkpoint of the Fashion-MNIST network: it flips a bit or cuts off the end, at a
uniformly random place. `wrong` counts the files that loaded with other values.
"""

import argparse
import hashlib
import os
import random
import statistics
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dlconcepts.networks import Network
from dlconcepts.support.checkpoint_files import load_file, save_file

State = dict[str, Tensor]


def torch_save(state: State, path: Path) -> None:
    torch.save(state, path)


def torch_save_and_sync(state: State, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def torch_load(path: Path) -> State:
    return torch.load(path, weights_only=True)


def zip_load(path: Path) -> State:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(damaged)
    return torch.load(path, weights_only=True)


PEERS: dict[str, tuple[Callable[[State, Path], None], Callable[[Path], State]]] = {
    "torch": (torch_save, torch_load),
    "torch, fsync": (torch_save_and_sync, torch_load),
    "torch, zip's own CRC-32": (torch_save, zip_load),
    "safetensors": (safetensors.torch.save_file, safetensors.torch.load_file),
    "dlconcepts": (save_file, load_file),
}
CHECKSUMS: dict[str, Callable[[memoryview], object]] = {
    "CRC-32": zlib.crc32,
    "Adler-32": zlib.adler32,
    "SHA-256": hashlib.sha256,
    "BLAKE2b": hashlib.blake2b,
    "MD5": hashlib.md5,
}


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def seconds_to_load(load: Callable[[Path], State], path: Path) -> float:
    """Return the seconds that a new process takes to load into an existing model."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        model = {f"layer{number}": torch.ones(2500, 1000) for number in range(10)}
        os.write(writer, f"{seconds(lambda: load_into(model, load, path))}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(process, 0)
    with os.fdopen(reader) as file:
        return float(file.read())


def load_into(model: State, load: Callable[[Path], State], path: Path) -> None:
    for name, tensor in load(path).items():
        model[name].copy_(tensor)


def shown(times: list[float], plain: list[float]) -> tuple[str, str]:
    """Return the median and minimum in milliseconds, and the ratio of the medians."""
    median = statistics.median(times)
    ratio = median / statistics.median(plain)
    return f"{1000 * median:.0f} ({1000 * min(times):.0f})", f"{ratio:.2f}"


def speed(folder: Path, rounds: int) -> Table:
    state = {f"layer{number}": torch.randn(2500, 1000) for number in range(10)}
    saves: dict[str, list[float]] = {name: [] for name in PEERS}
    loads: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(rounds):
        for name, (save, load) in PEERS.items():
            path = folder / "state"
            path.unlink(missing_ok=True)
            saves[name].append(seconds(lambda: save(state, path)))  # noqa: B023
            loads[name].append(seconds_to_load(load, path))
    columns = ("save ms", "/ torch", "/ torch, fsync", "load ms", "/ torch")
    table = Table("", *columns, title="100 MB, median (minimum)")
    for name in PEERS:
        synced = shown(saves[name], saves["torch, fsync"])[1]
        save_cells = (*shown(saves[name], saves["torch"]), synced)
        table.add_row(name, *save_cells, *shown(loads[name], loads["torch"]))
    return table


def price(rounds: int) -> Table:
    content = memoryview(bytes(100_000_000))
    table = Table("checksum", "ms for 100 MB", title="median (minimum)")
    for name, checksum in CHECKSUMS.items():
        times = [seconds(lambda: checksum(content)) for _ in range(rounds)]  # noqa: B023
        table.add_row(name, shown(times, times)[0])
    return table


def outcome(load: Callable[[Path], State], path: Path, state: State) -> str:
    """Return whether loading reports the damage, is unharmed, or gives other values."""
    try:
        found = load(path)
        right = found.keys() == state.keys() and all(found[k].equal(state[k]) for k in state)
        return "unharmed" if right else "wrong"
    except Exception:
        return "noticed"


def detection(folder: Path, damages: int) -> Table:
    state = {k: v.clone() for k, v in Network(784, [128, 64], 10).state_dict().items()}
    columns = ("flips noticed", "wrong", "unharmed", "cuts noticed", "wrong")
    table = Table("", *columns, title=f"{damages} damaged files each")
    for name, (save, load) in PEERS.items():
        path, drawn = folder / "state", random.Random(0)
        save(state, path)
        content, counts = bytearray(path.read_bytes()), {"flip": [], "cut": []}
        for _ in range(damages):
            position, bit = drawn.randrange(len(content)), 1 << drawn.randrange(8)
            content[position] ^= bit
            path.write_bytes(content)
            counts["flip"].append(outcome(load, path, state))
            content[position] ^= bit
            path.write_bytes(content[:position])
            counts["cut"].append(outcome(load, path, state))
        flips = [counts["flip"].count(kind) for kind in ("noticed", "wrong", "unharmed")]
        cuts = [counts["cut"].count(kind) for kind in ("noticed", "wrong")]
        table.add_row(name, *map(str, flips + cuts))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--damages", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as name:
        console.print(speed(Path(name), options.rounds))
        console.print(price(options.rounds))
        console.print(detection(Path(name), options.damages))


if __name__ == "__main__":
    main()
