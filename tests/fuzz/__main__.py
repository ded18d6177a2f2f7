"""Have every reader read what a fuzzer makes up, guided by which code it reaches: ``make fuzz MINUTES=60``.

Each reader has a process of its own for its share of the time. An exception that no user should see, memory beyond a
limit and a read that takes seconds are findings: the input is kept, and the exit code is 1. Inputs that reach code
which no other reached are kept as the corpus, which ``tests/test_fuzz.py`` reads again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random
from types import FrameType, TracebackType

import atheris

from fuzz import corpus

LONGEST = 4096
"""Bytes of an input: readers are guided to new code by small ones."""
LIMITS = ("-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=0", "-verbosity=0")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=10, help="for all readers together, and some seconds for each to begin"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="READER")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder for inputs that are findings")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _fuzz(name: str, seconds: float, work: Path, found: Path) -> None:
    """Fuzz one reader in this process; never returns."""
    with atheris.instrument_imports(include=["pythia_quant"], enable_loader_override=False):
        from fuzz.readers import READERS
    from mutations import distortions

    reader = READERS[name]
    seeds, scratch = work / "seeds", work / "scratch"
    for folder in (seeds, scratch):
        folder.mkdir()
    for number, content in enumerate([*reader.examples(work), *corpus.load(name)]):
        (seeds / str(number)).write_bytes(content)
    read, known = reader.in_folder(scratch), set[str]()

    def one(content: bytes) -> None:
        try:
            read(content)
        except Exception as error:
            place = _place(error)
            if place not in known:
                known.add(place)
                _keep(found, name, content, f"{place}\n{''.join(traceback.format_exception(error))}")

    def mutated(content: bytes, longest: int, seed: int) -> bytes:
        random_ = Random(seed)
        if random_.random() < 0.5:
            try:
                data = json.loads(content)
                changed = json.dumps(next(distortions([data], 1, seed))[0]).encode()
            except (ValueError, RecursionError, LookupError, TypeError):
                changed = b""
            if 0 < len(changed) <= longest:
                return changed
        return bytes(atheris.Mutate(content, longest))

    options = [f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", f"-artifact_prefix={found}/{name}-", *LIMITS]
    atheris.Setup([sys.argv[0], *options, str(seeds)], one, custom_mutator=mutated)
    atheris.Fuzz()


def _place(error: BaseException) -> str:
    last: TracebackType | None = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    frame: FrameType | None = last.tb_frame if last else None
    return f"{type(error).__name__} at {frame.f_code.co_filename}:{last.tb_lineno}" if frame and last else "nowhere"


def _keep(found: Path, name: str, content: bytes, what: str) -> None:
    place = found / f"{name}-{len(list(found.glob(f'{name}-*.bin')))}"
    place.with_suffix(".bin").write_bytes(content)
    place.with_suffix(".txt").write_text(what)


def _run(name: str, seconds: float, found: Path) -> bool:
    """Fuzz one reader in a process of its own, and keep what it learned; return whether nothing was found."""
    before = len(list(found.iterdir()))
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "fuzz", "--only", name, "--seconds", str(seconds), "--work", work]
        child = subprocess.run([*command, "--found", str(found)], check=False, capture_output=True, text=True)
        seeds = Path(work) / "seeds"
        learned = corpus.keep(name, seeds) if seeds.exists() else 0
    findings = len(list(found.iterdir())) - before
    print(f"{name}: {seconds:.0f} s, {learned} inputs in the corpus, {findings} findings", flush=True)
    if child.returncode and not findings:
        print(child.stderr[-2000:], file=sys.stderr, flush=True)
    return not child.returncode and not findings


def _main() -> None:
    given = _arguments()
    given.found.mkdir(exist_ok=True, parents=True)
    if given.work:
        _fuzz(given.only[0], given.seconds, given.work, given.found.resolve())
    names: list[str] = given.only or corpus.names()
    results = [_run(name, 60 * given.minutes / len(names), given.found.resolve()) for name in names]
    if not all(results):
        print(f"findings lie in {given.found}", file=sys.stderr)
    sys.exit(not all(results))


if __name__ == "__main__":
    _main()
