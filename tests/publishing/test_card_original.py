"""What a card takes over from the card of the original model."""

from __future__ import annotations

from itertools import pairwise

import pytest
from card_inputs import COMMIT, manifest
from rendered_card import card, front, only_our_html, section, tokens

from pythia_quant.publishing.clients import snippets
from pythia_quant.publishing.foreign_markdown import PARTS, metadata, sections, split
from pythia_quant.recipe.variants import GptqSettings


@pytest.mark.parametrize(
    "original",
    [
        "</blockquote></div>\n<script>alert(1)</script>\n<!--",
        "[results.json]: http://example.org\n[0.574, 0.901]: http://example.org\n[KL]: http://example.org",
        "---\ntags: [" + "[" * 200 + "\n---\n```\n````\n~~~",
        "---\ntags: ['<script>', 'a b', \"x\\n---\", {a: b}, 3, null]\nlicense: !!bool maybe\n---\n===\n---",
        "---\n- a\n- list\n---\n",
        "---\nlicense: &a [*a]\n---\n",
        "---\ntags: ok\nlicense: [mit, '| sh']\nlanguage: {en: x}\nmodel-index: [{name: x}]\nlibrary_name: evil\n---\n",
        "### Intended Use\n\n</blockquote>\n```\n\n# not a heading of ours",
        "",
    ],
)
def test_the_original_cannot_break_out(original: str) -> None:
    text = card(manifest(), original=original)
    found = tokens(text)
    assert only_our_html(found)
    headings = [
        following.content for token, following in pairwise(found) if token.type == "heading_open" and token.level == 0
    ]
    others = [snippet.name for snippet in snippets(GptqSettings(format="gptq"), "me/quantized")][1:]
    parts = [part for part in PARTS if part in sections(split(original).body)]
    assert headings == [
        "quantized", "How to run it", "How good it is", "Other programs", *others, "What is stored",
        "Uses and limitations", *parts, "Where it comes from", "Citation", "Original model description",
    ]  # fmt: skip
    ours = text.split("## Uses and limitations")[0]
    links = {str(token.attrs["href"]) for token in tokens(ours) if token.type == "link_open"}
    assert links == {"#other-programs", "results.json", f"https://huggingface.co/EleutherAI/pythia-70m/tree/{COMMIT}"}
    data = front(text)
    assert data.library_name == "transformers"
    assert len(data.eval_results) == 4
    assert set(data.tags) <= {"gptq", "4-bit", "gpt_neox", "pythia", "pythia-quant", "ok"}
    assert data.license in (None, "mit")
    assert data.language == "en"


def test_the_original_is_there_whole() -> None:
    text = section(card(manifest()), "Original model description")
    assert "```yaml\nlanguage: [en]\n" in text
    assert "> # Pythia\n" in text
    assert "> ## Training\n>\n> Long.\n" in text


def test_uses_and_limits_are_quoted_by_heading() -> None:
    text = section(card(manifest()), "Uses and limitations")
    assert "### Intended use\n\n> Research on *behaviour*.\n>\n> #### More of it\n>\n> Also this.\n\n" in text
    assert text.endswith("### Out-of-scope use\n\n> No products.\n")
    assert "Limitations and biases" not in text, "the original has no such part"


def test_headings_are_found_as_cards_write_them() -> None:
    body = (
        "Intended Uses\n===\nOne.\n\n## OUT OF SCOPE use ##\nTwo.\n\n### Bias, Risks, and Limitations\nThree.\n\n"
        "# Intended use\nAgain.\n\n> ## Limitations\n> Quoted.\n\n```\n# Intended use\n```\n"
    )
    assert sections(body) == {
        "Intended use": "One.", "Out-of-scope use": "Two.", "Limitations and biases": "Three.",
    }  # fmt: skip
    assert sections("# Uses and Limitations\n\nNothing of ours.") == {}


def test_a_card_is_split_where_its_front_matter_ends() -> None:
    assert split("---\na: 1\n---\nbody\n---\n") == ("a: 1", "body\n---")
    assert split("---\r\na: 1\r\n---\r\nbody") == ("a: 1", "body")
    assert split("---\n---\nbody") == ("", "body")
    assert split("body\n---\na: 1\n---\n") == ("", "body\n---\na: 1\n---")
    assert split("---\nnever closed") == ("", "---\nnever closed")
    assert metadata("a: [b, 'c d', 1, true, [e], '" + "x" * 200 + "']\nb: 2026-01-01\n3: c\nd: e/f.g-h") == {
        "a": ["b"], "b": ["2026-01-01"], "d": ["e/f.g-h"],
    }  # fmt: skip
