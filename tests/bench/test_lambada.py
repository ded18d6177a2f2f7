from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from heard import Heard
from tiny import TINY, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from pythia_quant.bench.lambada_accuracy import judge, predict, score_passages
from pythia_quant.bench.metrics import last_word_accuracy, last_word_perplexity
from pythia_quant.core.errors import BenchmarkError, CorpusError
from pythia_quant.texts.lambada import Example, read_passages, split_passage

BYTES = byte_tokenizer()
SPACE, OTHERS = "Ġ", TINY.vocabulary - 1


class Parrot:
    """Gives one half to the symbol that follows in "the cat", and the rest to all others alike."""

    description = "parrot"

    def __init__(self) -> None:
        self.fed: list[list[int]] = []
        after = {"t": "h", "h": "e", "e": SPACE, SPACE: "c", "c": "a", "a": "t"}
        self._after = {BYTES.token_to_id(one): BYTES.token_to_id(other) for one, other in after.items()}

    def logits(self, ids: Tensor) -> Tensor:
        self.fed.append(ids[0].tolist())
        result = torch.full((*ids.shape, TINY.vocabulary), math.log(0.5 / OTHERS))
        for position, token in enumerate(ids[0].tolist()):
            result[0, position, self._after.get(token, 0)] = math.log(0.5)
        return result + 3  # logits are log-probabilities up to a constant

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        assert capacity <= TINY.context
        return self.logits(ids[None])[0, -1]

    def step(self, token: int) -> Tensor:
        raise AssertionError(f"a last word is scored, not generated: {token}")


def words(merged: str) -> Tokenizer:
    """Return the byte tokenizer with one word and the space before it merged into a token of its own."""
    vocabulary, merges, start = BYTES.get_vocab(), [], SPACE
    for symbol in merged:
        merges.append((start, symbol))
        start += symbol
        vocabulary[start] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def ids(text: str) -> list[int]:
    found: list[int] = BYTES.encode(text, add_special_tokens=False).ids
    return found


def test_a_case_computed_by_hand() -> None:
    heard = Heard()
    measured = score_passages(Parrot(), BYTES, ["the cat", "the cap"], TINY, heard)
    hit, miss = 4 * math.log(0.5), 3 * math.log(0.5) + math.log(0.5 / OTHERS)
    assert measured.log_likelihood == pytest.approx([hit, miss], rel=1e-6)
    assert measured.greedy == [True, False]
    assert [step[1:] for step in heard.steps] == [(1, 2), (2, 2)]
    share = last_word_accuracy(measured)
    assert (share.value, share.count) == (0.5, 2)
    assert share.error == pytest.approx(0.5)
    result = last_word_perplexity(measured)
    assert result.value == pytest.approx(math.exp(-(hit + miss) / 2), rel=1e-5)  # exp of sums in fp32
    assert result.error == pytest.approx(result.value * (hit - miss) / 2)  # delta method: value x error of the mean


def test_the_last_word_has_the_space_before_it() -> None:
    assert split_passage(BYTES, "in the end", 0) == Example(ids("in the"), ids(" end"))


def test_white_space_before_the_last_space_belongs_to_the_word() -> None:
    assert split_passage(BYTES, "the \n  end", 0) == Example(ids("the"), ids(" \n  end"))
    assert split_passage(BYTES, "saw the \n\nend", 0) == Example(ids("saw the"), ids(" \n\nend"))


def test_the_end_of_text_stands_for_an_empty_context() -> None:
    assert split_passage(BYTES, "end", 7) == Example([7], ids(" end"))
    assert split_passage(BYTES, " end", 7) == Example([7], ids(" end"))
    assert split_passage(BYTES, "end", ids(" ")[0]) == Example(ids(" "), ids("end"))


def test_too_long_a_context_loses_its_start() -> None:
    runtime = Parrot()
    predictions = predict(runtime, Example(ids("so the"), ids(" cat")), 5)
    assert runtime.fed == [ids("he ca")]
    assert judge(predictions, ids(" cat"))[0] == pytest.approx(4 * math.log(0.5))
    predict(runtime, Example(ids("so the"), ids(" cat")), 9)
    assert runtime.fed[1] == ids("so the ca")


def test_a_word_of_one_token_is_predicted_from_the_last_position() -> None:
    tokenizer, runtime = words("cat"), Parrot()
    example = split_passage(tokenizer, "the cat", 0)
    assert len(example.word) == 1
    whole = runtime.logits(torch.tensor([example.context]))[0, -1:].log_softmax(-1)
    assert torch.equal(predict(runtime, example, TINY.context), whole)


@pytest.mark.parametrize(
    ("word", "positions", "message"), [([], 8, "has 0 tokens"), ([1, 2, 3], 2, "has 3 tokens, the model 2 positions")]
)
def test_what_cannot_be_scored_is_refused(word: list[int], positions: int, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        predict(Parrot(), Example([1], word), positions)


def test_passages_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\u2028b c", "id": 1}\n\n{"text": "d \\n\\ne"}\r\n', encoding="utf-8", newline="")
    assert read_passages(path) == ["a\u2028b c", "d \n\ne"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a b"}\n{"text": ', r"rows\.jsonl:2: is not JSON"),
        ('{"text": "a b"}\n{"passage": "a b"}\n', r"rows\.jsonl:2: the row has no text"),
        ('["a b"]\n', r"rows\.jsonl:1: the row has no text"),
        ('{"text": 5}\n', r"rows\.jsonl:1: the row has no text"),
        ('{"text": "a b"}\n\n{"text": "word"}\n', r"rows\.jsonl:3: the text has no two words"),
        ('{"text": " word"}\n', r"rows\.jsonl:1: the text has no two words"),
        ('{"text": "word "}\n', r"rows\.jsonl:1: the text has no two words"),
        ("", r"rows\.jsonl: has 0 rows"),
        ('{"text": "a b"}\n', r"rows\.jsonl: has 1 rows"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message) as refused:
        read_passages(path)
    assert "lambada_openai" in refused.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"rows\.jsonl: there is no such file"):
        read_passages(tmp_path / "rows.jsonl")
