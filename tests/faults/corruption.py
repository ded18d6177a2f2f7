"""Damage to each file that the program reads back: refused by its name, or made again; never taken for right."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from faults.nursery import SIGNAL_BEFORE, Fault
from faults.scenes import Scene, Stage, products, scenes
from faults.tally import Trial


def _flip(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _truncate(path: Path, random: Random) -> None:
    os.truncate(path, random.randrange(max(1, path.stat().st_size)))


def _empty(path: Path, _: Random) -> None:
    path.write_bytes(b"")


def _delete(path: Path, _: Random) -> None:
    path.unlink()


def _swap(path: Path, random: Random) -> None:
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    shutil.copyfile(random.choice(others), path) if others else path.write_bytes(b"{}")


def _link(path: Path, _: Random) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _extra(path: Path, _: Random) -> None:
    (path.parent / "extra.safetensors").write_bytes(path.read_bytes())


DAMAGES: dict[str, Callable[[Path, Random], None]] = {
    "flipped": _flip, "truncated": _truncate, "emptied": _empty, "deleted": _delete, "swapped": _swap,
    "linked": _link, "extra": _extra,
}  # fmt: skip


def trials(stage: Stage, random: Random) -> Iterator[Trial]:
    """Yield damages, for as long as they are asked for."""
    known = {f"{scene.command} {scene.name}": scene for scene in scenes()}
    quantized = known["bench one artifact"]
    half = known["quantize gptq-int4"]
    while True:
        for how in DAMAGES:
            yield _of_artifact(stage, quantized, ("verify", "out/tiny/local/onnx-int8"), how, random)
            yield _of_artifact(stage, quantized, quantized.arguments, how, random)
            yield _of_cache(stage, quantized, how, random)
            yield _of_work(stage, half, how, random)


def _damage(files: list[Path], how: str, random: Random) -> Path:
    path = random.choice(sorted(files))
    before = path.read_bytes()
    DAMAGES[how](path, random)
    if how != "extra" and path.is_file() and not path.is_symlink() and path.read_bytes() == before:
        path.write_bytes(before + b"x")  # the damage changed nothing: there was nothing to swap with
    return path


def _refused(code: int, said: str) -> None:
    assert code == 2, f"taken for right: exit code {code}, {said[-1500:]}"
    assert "Traceback" not in said, said[-1500:]


def _of_artifact(stage: Stage, scene: Scene, arguments: tuple[str, ...], how: str, random: Random) -> Trial:
    def bring_about() -> None:
        stage.lay(scene)
        folder = stage.here / "out/tiny/local/onnx-int8"
        manifest = (folder / "pythia_quant.json").read_text()
        path = _damage([one for one in folder.rglob("*") if one.is_file()], how, random)
        ending = stage.run(arguments)
        if path.name == "pythia_quant.json" and path.is_file() and not path.is_symlink():
            # It holds no hash of itself: text in it may change. What it says of files may not.
            assert ending.code in (0, 2, 3, 4), (manifest, ending.said)
            assert "Traceback" not in ending.said, ending.said[-1500:]
        else:
            _refused(ending.code, ending.said)

    return Trial(f"an artifact's file {how}: {arguments[0]}", bring_about, scene.name)


def _of_cache(stage: Stage, scene: Scene, how: str, random: Random) -> Trial:
    def bring_about() -> None:
        expected = stage.expected(scene)
        stage.lay(scene)
        assert stage.run(scene.arguments).code == expected.code
        cache = stage.here / "cache"
        path = _damage([one for one in cache.rglob("*") if one.is_file() and one.suffix != ".lock"], how, random)
        ending = stage.run(scene.arguments)
        assert ending.code == expected.code or (ending.code == 2 and str(path.parent) in ending.said), ending.said
        if ending.code == expected.code:
            assert products(stage.here) == expected.products, f"{path.name}: other results"

    return Trial(f"a cache entry or kept reference {how}: bench", bring_about, scene.name)


def _of_work(stage: Stage, scene: Scene, how: str, random: Random) -> Trial:
    """Kill a conversion in its second half, damage what it has left, and run it again."""

    def bring_about() -> None:
        expected = stage.expected(scene)
        files: list[Path] = []
        while not files:
            stage.lay(scene)
            event = random.randrange(expected.events // 2, expected.events)
            stage.run(scene.arguments, Fault(event, SIGNAL_BEFORE, signal.SIGKILL))
            parts = [one for one in (stage.here / "out").rglob("*") if ".work-" in str(one)]
            files = [one for one in parts if one.is_file() and not one.name.endswith("lock")]
        _damage(files, how, random)
        ending = stage.run(scene.arguments)
        if ending.code == expected.code:
            assert products(stage.here) == expected.products, "another artifact"
        else:
            _refused(ending.code, ending.said)
            assert ".work-" in ending.said, ending.said

    return Trial(f"a work folder's file {how}: quantize", bring_about, scene.name)
