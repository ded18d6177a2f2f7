"""What `generate` prints, from where it reads the prompt, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import refuse, run, succeed

import pythia_quant as pq


@pytest.fixture(scope="module")
def folder(converted: Path) -> Path:
    return converted / "out/tiny/local/onnx-fp32"


def test_a_prompt_from_standard_input_is_taken_as_it_is(folder: Path) -> None:
    arguments = ("generate", folder, "--max-new-tokens", "6", "--temperature", "1", "--top-k", "9", "--top-p", "0.9")
    expected = succeed(*arguments, "--prompt", "a é\n")
    assert expected.startswith("a é\n")
    done = run(*arguments, "--prompt", "-", given="a é\n".encode())
    assert (done.returncode, done.stdout) == (0, expected)
    artifact = pq.load(folder)
    settings = {"temperature": 1.0, "top_k": 9, "top_p": 0.9}
    assert "".join(artifact.stream("a é\n", 6, **settings)) == artifact.generate("a é\n", 6, **settings)  # type: ignore[arg-type]
    assert f"a é\n{artifact.generate('a é' + chr(10), 6, **settings)}\n" == expected  # type: ignore[arg-type]


def test_a_text_ends_before_a_stop_string(folder: Path) -> None:
    whole = json.loads(succeed("generate", folder, "--prompt", "abc", "--max-new-tokens", "20", "--json"))["text"]
    stop = whole[5:7]
    cut = whole[: whole.index(stop)]
    assert pq.load(folder).generate("abc", 20, stop=stop) == cut
    assert (
        succeed("generate", folder, "--prompt", "abc", "--max-new-tokens", "20", "--stop", "never", "--stop", stop)
        == f"abc{cut}\n"
    )


def test_lines_are_continued_until_the_input_ends(folder: Path) -> None:
    arguments = ("generate", folder, "--interactive", "--max-new-tokens", "4")
    done = run(*arguments, given=b"ab\ncd\n/reset\nef\n")
    assert done.returncode == 0
    artifact = pq.load(folder)
    first = artifact.generate("ab", 4)
    second = artifact.generate(f"ab{first}cd", 4)
    assert done.stdout == f"{first}\n{second}\n{artifact.generate('ef', 4)}\n"
    full = run(*arguments, given=b"a" * 40 + b"\nef\n")
    assert full.returncode == 0
    assert "exceed the context, 32" in full.stderr
    assert full.stdout == f"{artifact.generate('ef', 4)}\n", "what did not fit is forgotten"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt: is missing"),
        (["--prompt", "-", "--interactive"], "both read standard input"),
        (["--interactive", "--json"], "contradict each other"),
        (["--prompt", "a", "--top-p", "nan"], "--top-p: is nan"),
        (["--prompt", "-"], "standard input: is not UTF-8"),
        (["--interactive"], "standard input: is not UTF-8"),
        (["--prompt", "a" * 32, "--max-new-tokens", "1"], "exceed the context"),
    ],
)
def test_what_cannot_be_continued_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    done = run("generate", folder, *arguments, given=b"a\xff\n")
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if arguments == []:
        assert refuse("generate", folder)
